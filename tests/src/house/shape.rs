//! How long files and functions are, and how files are named: by duty, not by drawer.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Block, ImplItemFn, Item, ItemFn, Signature, TraitItemFn};

use super::source::is_test;
use super::{Breach, Kind, Source};

/// The most lines of a file before its tests.
pub const MAX_FILE: usize = 400;

/// The most lines of a function, from `fn` to the last brace.
pub const MAX_FUNCTION: usize = 70;

/// Names that say nothing of what is inside. `mod.rs` hides which module one is in: a module's
/// file stands beside its folder.
const DRAWERS: [&str; 9] =
    ["utils", "util", "common", "helpers", "helper", "manager", "managers", "misc", "mod"];

/// A file that is longer than one reads. Files that only test are exempt: a table of cases is long
/// and harmless; their functions are not exempt.
#[must_use]
pub fn file_length(source: &Source) -> Vec<Breach> {
    if source.kind != Kind::Shipped {
        return Vec::new();
    }
    // The module, not any line under `cfg(test)`: an import for tests at the top would hide all.
    let tests = source.syntax.items.iter().find_map(|item| match item {
        Item::Mod(module) if is_test(&module.attrs) => {
            Some(module.attrs.iter().map(|a| a.span().start().line).min().unwrap_or(1) - 1)
        }
        _ => None,
    });
    let lines = tests.unwrap_or_else(|| source.text.lines().count());
    if lines <= MAX_FILE {
        return Vec::new();
    }
    let what = format!("{lines} lines before its tests, {MAX_FILE} are allowed; split by duty");
    vec![source.breach(0, what)]
}

/// Functions that are longer than one sees.
#[must_use]
pub fn function_lengths(source: &Source) -> Vec<Breach> {
    let mut functions = Functions { source, breaches: Vec::new() };
    functions.visit_file(&source.syntax);
    functions.breaches
}

struct Functions<'a> {
    source: &'a Source,
    breaches: Vec<Breach>,
}

impl Functions<'_> {
    fn judge(&mut self, signature: &Signature, block: &Block) {
        let first = signature.span().start().line;
        let last = block.brace_token.span.close().end().line;
        let lines = last + 1 - first;
        if lines > MAX_FUNCTION {
            let name = &signature.ident;
            let what = format!("`{name}` has {lines} lines, {MAX_FUNCTION} are allowed");
            self.breaches.push(self.source.breach(first, what));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.judge(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.judge(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.judge(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

/// A file or folder that is named like a drawer.
#[must_use]
pub fn name(source: &Source) -> Vec<Breach> {
    let stem = source.path.strip_suffix(".rs").unwrap_or(&source.path);
    let wrong = stem.split('/').find(|part| DRAWERS.contains(part));
    let what = |part| format!("`{part}` is a drawer, not a duty; name it by what it does");
    wrong.map(|part| source.breach(0, what(part))).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str, kind: Kind) -> Source {
        Source::parse(path, text, kind).unwrap()
    }

    #[test]
    fn a_long_file_is_noticed_and_its_tests_do_not_count() {
        let lines = |count: usize| "const A: u8 = 1;\n".repeat(count);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(300));
        let judge = |text: &str, kind| file_length(&source("a.rs", text, kind)).len();
        assert_eq!(judge(&lines(400), Kind::Shipped), 0);
        assert_eq!(judge(&lines(401), Kind::Shipped), 1);
        assert_eq!(judge(&(lines(400) + &tests), Kind::Shipped), 0);
        assert_eq!(judge(&(lines(401) + &tests), Kind::Shipped), 1);
        let hidden = format!("#[cfg(test)]\nuse a::b;\n{}", lines(401));
        assert_eq!(judge(&hidden, Kind::Shipped), 1);
        assert_eq!(judge(&lines(401), Kind::Integration), 0);
    }

    #[test]
    fn a_long_function_is_noticed_wherever_it_stands() {
        let body = |lines: usize| format!("fn long() {{\n{}}}\n", "    a();\n".repeat(lines - 2));
        let judge = |text: &str| function_lengths(&source("a.rs", text, Kind::Integration)).len();
        assert_eq!(judge(&format!("/// Doc.\n/// More.\n{}", body(70))), 0);
        assert_eq!(judge(&body(71)), 1);
        assert_eq!(judge(&format!("impl A {{\n{}}}", body(71))), 1);
        assert_eq!(judge(&format!("trait A {{\n{}}}", body(71))), 1);
        assert_eq!(judge(&format!("#[cfg(test)]\nmod tests {{\n{}}}", body(71))), 1);
    }

    #[test]
    fn drawers_are_noticed() {
        let judge = |path: &str| name(&source(path, "", Kind::Shipped)).len();
        assert_eq!(judge("crates/a/src/utils.rs"), 1);
        assert_eq!(judge("crates/a/src/b/mod.rs"), 1);
        assert_eq!(judge("crates/common/src/lib.rs"), 1);
        assert_eq!(judge("crates/a/src/commonly.rs"), 0);
    }
}
