//! Every target over its corpus, and over inputs made of it: what a minute of libFuzzer finds at leisure, a run of the suite
//! must not lose again.

mod seeds;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use leno_fuzz::{Mutations, TARGETS, Target};

/// Inputs of each target that are made, at most, and for how long.
const INPUTS: usize = 2_000;
const TIME: Duration = Duration::from_secs(4);

fn directory(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(directory(target)).unwrap_or_else(|error| panic!("{}: {error}", target.name));
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let read = |path: PathBuf| (path.display().to_string(), fs::read(&path).expect("a file"));
    files.into_iter().map(read).collect()
}

/// Runs one input; a property that does not hold is shown together with the bytes.
fn holds(target: &Target, name: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.check)(input))).is_err() {
        panic!("{}: {name} breaks: {}\n{:?}", target.name, target.property, input.escape_ascii().to_string());
    }
}

fn survives(target: &Target) {
    let corpus = corpus(target);
    assert!(corpus.len() >= 5, "{} has a corpus of {}", target.name, corpus.len());
    for (name, input) in &corpus {
        holds(target, name, input);
    }
    let inputs: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    let seed = std::env::var("LENO_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20);
    let started = Instant::now();
    let made = Mutations::new(&inputs, target.words, seed).take(INPUTS);
    let made = made.take_while(|_| started.elapsed() < TIME);
    let count = made.inspect(|input| holds(target, "an input that was made", input)).count();
    println!("{}: {} files, {count} more", target.name, inputs.len());
}

macro_rules! targets {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            survives(leno_fuzz::target(stringify!($name)).expect("a target"));
        })+

        #[test]
        fn every_target_is_run() {
            let named = [$(stringify!($name)),+];
            let all: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(all, named);
        }
    };
}

targets! {
    detection sanitize path http2_to_http1 client_hello spiffe_id jwt xds rules snapshot saved_rules log_format
    original_destination peer_words trace_context
}

/// An input that libFuzzer has found: `LENO_FUZZ_INPUT=FILE LENO_FUZZ_TARGET=NAME`.
#[test]
fn the_input_that_was_named_holds() {
    let (Ok(file), Ok(name)) = (std::env::var("LENO_FUZZ_INPUT"), std::env::var("LENO_FUZZ_TARGET")) else { return };
    let target = leno_fuzz::target(&name).unwrap_or_else(|| panic!("there is no target `{name}`"));
    holds(target, &file, &fs::read(&file).expect("a file"));
}
