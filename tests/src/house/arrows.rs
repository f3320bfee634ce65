//! Which package may know which: the arrows of the house.

use cargo_metadata::{DependencyKind, Metadata};

use super::Breach;

/// Each package and what of the workspace it may depend on. A package that is not here fails the
/// test: whoever adds one says where it stands.
///
/// Everything but `kernels` may speak the protocol: it is the vocabulary. `node` knows the
/// machines of `session` and `routing` only through `peer`.
pub const ARROWS: [(&str, &[&str]); 12] = [
    ("taimatsu-protocol", &[]),
    ("taimatsu-kernels", &[]),
    ("taimatsu-model", &["taimatsu-protocol"]),
    ("taimatsu-executor", &["taimatsu-protocol", "taimatsu-model", "taimatsu-kernels"]),
    ("taimatsu-routing", &["taimatsu-protocol"]),
    ("taimatsu-placement", &["taimatsu-protocol"]),
    ("taimatsu-reputation", &["taimatsu-protocol"]),
    ("taimatsu-session", &["taimatsu-protocol"]),
    (
        "taimatsu-peer",
        &[
            "taimatsu-protocol",
            "taimatsu-routing",
            "taimatsu-placement",
            "taimatsu-reputation",
            "taimatsu-session",
        ],
    ),
    ("taimatsu-network", &["taimatsu-protocol"]),
    ("taimatsu-bootstrap", &["taimatsu-protocol", "taimatsu-network"]),
    (
        "taimatsu",
        &[
            "taimatsu-protocol",
            "taimatsu-peer",
            "taimatsu-network",
            "taimatsu-executor",
            "taimatsu-model",
            "taimatsu-bootstrap",
        ],
    ),
];

/// They depend on whatever they test.
const TESTS: [&str; 2] = ["taimatsu-tests", "taimatsu-links"];

/// The dependencies between packages of the workspace, tests aside: who, and on whom.
#[must_use]
pub fn of(metadata: &Metadata) -> Vec<(String, Vec<String>)> {
    let packages = metadata.workspace_packages();
    let ours = |name: &str| packages.iter().any(|package| package.name.as_str() == name);
    let depends = |package: &&cargo_metadata::Package| {
        let shipped = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
        let on = shipped.map(|dependency| dependency.name.clone()).filter(|name| ours(name));
        (package.name.to_string(), on.collect())
    };
    packages.iter().map(depends).collect()
}

/// The dependencies that no arrow allows, and the packages that stand nowhere.
#[must_use]
pub fn breaches(dependencies: &[(String, Vec<String>)]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (package, on) in dependencies {
        let mut breach = |what| breaches.push(Breach { place: package.clone(), line: 0, what });
        if TESTS.contains(&package.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| name == package) else {
            breach("stands in no arrow; add it to ARROWS and to docs/architecture.md".to_owned());
            continue;
        };
        for other in on.iter().filter(|other| !allowed.contains(&other.as_str())) {
            breach(format!("depends on {other}; no arrow leads there"));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(package: &str, on: &[&str]) -> Vec<String> {
        let on = on.iter().map(|&name| name.to_owned()).collect();
        breaches(&[(package.to_owned(), on)]).into_iter().map(|breach| breach.what).collect()
    }

    #[test]
    fn an_arrow_may_be_used_and_nothing_else() {
        assert!(whats("taimatsu-peer", &["taimatsu-session", "taimatsu-protocol"]).is_empty());
        assert!(whats("taimatsu-tests", &["taimatsu", "taimatsu-model"]).is_empty());
        for (package, on) in [
            ("taimatsu-routing", "taimatsu-reputation"),
            ("taimatsu-protocol", "taimatsu-network"),
            ("taimatsu-peer", "taimatsu-network"),
            ("taimatsu-bootstrap", "taimatsu-model"),
            ("taimatsu", "taimatsu-tests"),
        ] {
            assert_eq!(whats(package, &[on]).len(), 1, "{package} -> {on}");
        }
    }

    #[test]
    fn a_package_without_a_place_is_noticed() {
        assert!(whats("taimatsu-drawer", &[])[0].contains("stands in no arrow"));
    }

    #[test]
    fn the_arrows_make_no_circle() {
        // Each leads to a package that stands further up.
        for (at, (_, allowed)) in ARROWS.iter().enumerate() {
            for name in *allowed {
                let to = ARROWS.iter().position(|(other, _)| other == name).unwrap();
                assert!(to < at, "{name}");
            }
        }
    }
}
