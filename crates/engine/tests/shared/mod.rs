//! What tests of sled's files share.

use std::fs;
use std::path::{Path, PathBuf};

/// Copies a directory as it lies there, open files included; what was at `to` before is gone.
pub(crate) fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
    // Sled looks for it whether anything is in it or not.
    fs::create_dir_all(to.join("sled/blobs")).unwrap();
}

/// Every file in a directory and in those below, in order.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}
