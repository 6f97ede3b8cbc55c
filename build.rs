//! Names the build: a hash over the source of the core, by which a recording finds the build that can replay it.

use std::fs;
use std::path::{Path, PathBuf};

/// What of `src` is not the core: it may change, and recordings replay all the same.
const LIVE: &[&str] = &["net", "registry.rs", "view.rs", "select", "check", "door", "cli", "main.rs"];

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=Cargo.lock");
    let mut files = sources(Path::new("src"));
    files.retain(|file| !LIVE.iter().any(|live| file.starts_with(Path::new("src").join(live))));
    files.sort();
    // What the core depends on decides its outputs too; a published crate has no such file.
    files.push(PathBuf::from("Cargo.lock"));
    // FNV-1a, 64 bits: builds are told apart, nobody is kept out.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let name = file.to_string_lossy().replace('\\', "/");
        let bytes = fs::read(&file).unwrap_or_default();
        for byte in name.bytes().chain([0]).chain(bytes).chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    println!("cargo::rustc-env=TIDINGS_CORE_HASH={hash:016x}");
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.map(|entry| entry.unwrap_or_else(|error| panic!("{}: {error}", dir.display())).path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}
