use super::*;

/// A made-up profile that breaks no rule.
pub(crate) const SMALL: &str = r#"
title = "Small"
system = "linux"
rust_target = "aarch64-unknown-linux-gnu"

[memory]
memory_gib = { value = 1, source = "a" }
bandwidth_gb_per_s = { value = 10, source = "a" }
bandwidth_is = "sustained"

[cpu]
isa = ["neon"]
isa_source = "a"
cores = [{ kind = "x", count = 2, max_ghz = 1.5, source = "a" }]
int8_gigamacs_per_s = { value = 100, source = "a" }

[[limits]]
state = "foreground"
anonymous_gb = { value = 0.5, source = "a" }
rule = "made up"

[thermal]
class = "none"

[sources]
a = { cite = "made up", trust = "estimate" }
"#;

#[test]
fn every_built_in_profile_keeps_the_rules() {
    let targets = built_in().unwrap();
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    assert!(names.is_sorted(), "{names:?}");
    for target in &targets {
        let profile = &target.profile;
        assert!(!profile.title.is_empty() && !profile.cpu.isa.is_empty());
        for (place, number) in profile.numbers() {
            let source = profile.source(&number.source).unwrap();
            assert!(!source.cite.is_empty(), "{}: {place}", target.name);
        }
        // What a prediction needs is there, or said to be missing.
        let said = profile.missing.join("\n");
        let needed = [
            (profile.memory.bandwidth_gb_per_s.is_some(), "bandwidth"),
            (profile.cpu.int8_gigamacs_per_s.is_some(), "int8 peak"),
        ];
        for (there, word) in needed {
            assert!(there || said.contains(word), "{}: {word}", target.name);
        }
    }
}

#[test]
fn every_file_in_the_folder_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, BUILT_IN.map(|(name, _)| name));
}

#[test]
fn the_limits_of_google_play_and_of_phones_are_there() {
    let limit = |name: &str, state: State, entitled: bool| {
        let profile = find(name).unwrap().profile;
        let mut limits = profile.limits.into_iter();
        let limit = limits.find(|l| l.state == state && l.entitlement.is_some() == entitled);
        limit.map(|limit| limit.anonymous_gb.value)
    };
    assert_eq!(limit("android-6gb", State::Foreground, false), Some(2.25));
    assert_eq!(limit("android-6gb", State::Background, false), Some(1.25));
    assert_eq!(limit("pixel-8", State::Background, false), Some(1.5));
    assert_eq!(limit("iphone-15-pro", State::Foreground, true), Some(6.0));
}

#[test]
fn broken_profiles_are_refused_by_field() {
    assert_eq!(read("small", SMALL).unwrap().profile.core_count(), 2);
    let cases = [
        (
            "class = \"none\"",
            "class = \"none\"\ncolour = 3",
            "unknown field `colour`",
        ),
        (
            "value = 10, source = \"a\"",
            "value = -1, source = \"a\"",
            "`memory.bandwidth_gb_per_s`: -1 is not above 0",
        ),
        (
            "value = 100, source = \"a\"",
            "value = nan, source = \"a\"",
            "`cpu.int8_gigamacs_per_s`: NaN is not above 0",
        ),
        (
            "count = 2, max_ghz = 1.5, source = \"a\"",
            "count = 2, source = \"b\"",
            "`b` is cited and absent",
        ),
        (
            "[sources]",
            "[sources]\nz = { cite = \"z\", trust = \"vendor\" }",
            "`z` is cited nowhere",
        ),
        ("count = 2", "count = 0", "`cpu.cores`"),
        (
            "bandwidth_is = \"sustained\"",
            "",
            "`memory.bandwidth_is`: stands together",
        ),
        ("trust = \"estimate\"", "trust = \"hearsay\"", "hearsay"),
        ("value = 1, source", "value = 1, sauce", "sauce"),
    ];
    for (from, to, word) in cases {
        let text = SMALL.replacen(from, to, 1);
        assert_ne!(text, SMALL, "{from}");
        let error = match read("small", &text).unwrap_err() {
            crate::failure::Failure::Error(error) => error,
            other => panic!("{other:?}"),
        };
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    }
}
