//! Where the store lies if nobody says otherwise.

use std::path::{Path, PathBuf};

/// The store's folder: `models` (`TAIMATSU_MODELS`), else below `data_home` (`XDG_DATA_HOME`,
/// which counts only if absolute), else below `home`.
#[must_use]
pub fn default_dir(
    models: Option<&Path>,
    data_home: Option<&Path>,
    home: Option<&Path>,
) -> Option<PathBuf> {
    let below = |data: PathBuf| data.join("taimatsu").join("models");
    models.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned).or_else(|| {
        let data = data_home.filter(|path| path.is_absolute()).map(Path::to_owned);
        data.or_else(|| home.map(|home| home.join(".local").join("share"))).map(below)
    })
}

/// [`default_dir`] with this process's environment; for tests, which have no configuration.
#[must_use]
pub fn dir_from_environment() -> Option<PathBuf> {
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    default_dir(
        path("TAIMATSU_MODELS").as_deref(),
        path("XDG_DATA_HOME").as_deref(),
        path("HOME").as_deref(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_wish_wins() {
        let [models, data, home] = ["/m", "/d", "/h"].map(Path::new);
        let dir = |a, b, c| default_dir(a, b, c).map(|path| path.display().to_string());
        assert_eq!(dir(Some(models), Some(data), Some(home)).as_deref(), Some("/m"));
        assert_eq!(dir(None, Some(data), Some(home)).as_deref(), Some("/d/taimatsu/models"));
        let relative = Path::new("d");
        let share = "/h/.local/share/taimatsu/models";
        assert_eq!(dir(None, Some(relative), Some(home)).as_deref(), Some(share));
        assert_eq!(dir(None, None, None), None);
    }
}
