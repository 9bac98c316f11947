//! `/logging`: what is logged, and how to change it. The same page in both programs.

use std::fmt::Write;

use http::StatusCode;

use super::{Levels, LevelsError, Log};

/// Answers `GET /logging` (`changes` is `None`) and `POST /logging` (the changes that its query names, decoded). With
/// `format=json` among them, or for `GET`, the answer is JSON: [`Logged`](super::Logged).
pub fn answer(log: Option<&Log>, changes: Option<&[(&str, &str)]>, json: bool) -> (StatusCode, String) {
    let Some(log) = log else {
        return (StatusCode::SERVICE_UNAVAILABLE, "this process writes no log of its own\n".to_owned());
    };
    let levels = match changes {
        None => Ok(log.levels()),
        Some(changes) => log.change(changes.iter().copied()),
    };
    match levels {
        Ok(levels) => (StatusCode::OK, if json { as_json(&levels) } else { as_text(&levels) }),
        Err(error @ LevelsError::NotApplied(_)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn as_json(levels: &Levels) -> String {
    let logged = levels.logged();
    format!("{:#}\n", serde_json::json!(logged))
}

/// Envoy's shape.
fn as_text(levels: &Levels) -> String {
    let logged = levels.logged();
    let mut out = format!("active loggers:\n  level: {}\n", logged.level);
    for (module, level) in logged.modules {
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {module}: {level}");
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn log() -> Log {
        Log { levels: Mutex::new("info,h2=off".parse().expect("valid")), apply: Box::new(|_| Ok(())) }
    }

    #[test]
    fn the_page_shows_what_is_logged_and_what_was_changed() {
        let log = log();
        let answered = |changes: Option<&[(&str, &str)]>, json| answer(Some(&log), changes, json);
        let ok = |text: &str| (StatusCode::OK, text.to_owned());
        assert_eq!(answered(None, false), ok("active loggers:\n  level: info\n  h2: off\n"));
        let changes = [("leno_proxy::xds", "debug")];
        let text = "active loggers:\n  level: info\n  h2: off\n  leno_proxy::xds: debug\n";
        assert_eq!(answered(Some(&changes), false), ok(text));
        assert_eq!(answered(Some(&[("level", "warn")]), false), ok("active loggers:\n  level: warn\n"));
        let (status, json) = answered(None, true);
        let json: super::super::Logged = serde_json::from_str(&json).expect("JSON");
        assert_eq!((status, json.level.as_str(), json.modules.len()), (StatusCode::OK, "warn", 0));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        for (changes, says) in [
            (&[("level", "loud")][..], "off, error, warn, info, debug and trace"),
            (&[("a b", "debug")], "not the name of a module"),
            (&[], "say what is to be logged"),
        ] {
            let (status, text) = answer(Some(&log()), Some(changes), false);
            assert!(status == StatusCode::BAD_REQUEST && text.contains(says), "{changes:?}: {status} {text}");
        }
        assert_eq!(answer(None, None, false).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
