//! GGUF files → bundles: every tensor type, family and tokenizer, real files, and files that are not what they claim to be.

#[path = "../common/mod.rs"]
mod common;

mod blocks;
mod hostile;
mod model;
mod real;
mod tokenizer;
mod writer;

use std::path::Path;

use skimstone::Bundle;
use skimstone::import::{ImportOptions, import};

/// Imports a file of these bytes. On failure nothing may be left.
fn run(file: &[u8], options: &ImportOptions) -> skimstone::Result<Bundle> {
    Folder::new().run(file, options)
}

/// A place to import in, for tests that do it thousands of times.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn run(&self, file: &[u8], options: &ImportOptions) -> skimstone::Result<Bundle> {
        // The name says nothing: the first bytes do.
        let source = self.0.path().join("model");
        std::fs::write(&source, file).unwrap();
        let result = self.run_at(&source, options);
        std::fs::remove_file(&source).unwrap();
        result
    }

    fn run_at(&self, source: &Path, options: &ImportOptions) -> skimstone::Result<Bundle> {
        let files = || self.0.path().read_dir().unwrap().count();
        let before = files();
        let path = self.0.path().join("out.skim");
        let imported = import(source, &path, options, &mut |_, _, _| {});
        let expected = before + usize::from(imported.is_ok());
        assert_eq!(files(), expected, "a bundle on success, nothing on failure");
        imported?;
        let bundle = Bundle::open(&path);
        std::fs::remove_file(&path).unwrap();
        bundle
    }
}
