//! How much is logged, by module: `info,leno_proxy::xds=debug`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::Logged;

/// Modules that can be named at a time.
const MAX_MODULES: usize = 64;
/// Bytes of a module's name.
const MAX_NAME: usize = 128;

/// Why levels cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LevelsError {
    /// Not a level.
    #[error("`{0}` is not a level; there are off, error, warn, info, debug and trace")]
    Level(String),
    /// Not a module.
    #[error("`{0}` is not the name of a module; write it as in leno_proxy::xds=debug")]
    Module(String),
    /// Too many.
    #[error("at most {MAX_MODULES} modules can have a level of their own; say level=LEVEL to forget those before")]
    TooMany,
    /// Nothing was asked for.
    #[error("say what is to be logged: level=LEVEL or MODULE=LEVEL")]
    Nothing,
    /// The log does not take it.
    #[error("the log cannot be changed: {0}")]
    NotApplied(String),
}

/// How much is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    level: LevelFilter,
    modules: BTreeMap<String, LevelFilter>,
}

impl Levels {
    /// What `tracing` understands.
    pub(super) fn targets(&self) -> Targets {
        let modules = self.modules.iter().map(|(module, level)| (module.clone(), *level));
        Targets::new().with_default(self.level).with_targets(modules)
    }

    /// These with some changes.
    pub(super) fn changed<'q>(&self, pairs: impl Iterator<Item = (&'q str, &'q str)>) -> Result<Self, LevelsError> {
        let mut new = self.clone();
        let mut modules = Vec::new();
        let mut is_empty = true;
        for (name, value) in pairs {
            is_empty = false;
            let value = level(value)?;
            if name == "level" {
                new = Self { level: value, modules: BTreeMap::new() };
            } else {
                modules.push((module(name)?, value));
            }
        }
        if is_empty {
            return Err(LevelsError::Nothing);
        }
        new.modules.extend(modules);
        if new.modules.len() > MAX_MODULES { Err(LevelsError::TooMany) } else { Ok(new) }
    }

    /// For `GET /logging`.
    pub fn logged(&self) -> Logged {
        let modules = self.modules.iter().map(|(module, level)| (module.clone(), level.to_string())).collect();
        Logged { level: self.level.to_string(), modules }
    }
}

impl Default for Levels {
    fn default() -> Self {
        Self { level: LevelFilter::INFO, modules: BTreeMap::new() }
    }
}

impl FromStr for Levels {
    type Err = LevelsError;

    /// `LEVEL`, `MODULE=LEVEL` and several of them with commas; nothing at all is `info`.
    fn from_str(text: &str) -> Result<Self, LevelsError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let pairs: Vec<(&str, &str)> = parts.map(|part| part.split_once('=').unwrap_or(("level", part))).collect();
        if pairs.is_empty() { Ok(Self::default()) } else { Self::default().changed(pairs.into_iter()) }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        self.modules.iter().try_for_each(|(module, level)| write!(f, ",{module}={level}"))
    }
}

fn level(text: &str) -> Result<LevelFilter, LevelsError> {
    let word = match text.to_ascii_lowercase().as_str() {
        // Envoy's.
        "warning" => "warn".to_owned(),
        "critical" => "error".to_owned(),
        // A number would be taken as well.
        word if word.bytes().all(|byte| byte.is_ascii_alphabetic()) => word.to_owned(),
        _ => String::new(),
    };
    let shown = || text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    if word.is_empty() { None } else { word.parse().ok() }.ok_or_else(|| LevelsError::Level(shown()))
}

/// `leno_proxy::xds`: names of Rust with `::` between them.
fn module(text: &str) -> Result<String, LevelsError> {
    let is_name = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if text.len() <= MAX_NAME && text.split("::").all(is_name) {
        Ok(text.to_owned())
    } else {
        Err(LevelsError::Module(text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_they_are_written() {
        let rows = [
            ("", Ok("info")),
            ("debug", Ok("debug")),
            ("WARN", Ok("warn")),
            ("warning", Ok("warn")),
            ("off", Ok("off")),
            ("info,leno_proxy::xds=debug", Ok("info,leno_proxy::xds=debug")),
            ("leno_proxy::xds=debug", Ok("info,leno_proxy::xds=debug")),
            ("leno_proxy=trace, warn", Ok("warn,leno_proxy=trace")),
            ("h2=off,hyper=error", Ok("info,h2=off,hyper=error")),
            ("loud", Err(LevelsError::Level("loud".to_owned()))),
            ("3", Err(LevelsError::Level("3".to_owned()))),
            ("a=", Err(LevelsError::Level(String::new()))),
            ("[span{x=1}]=debug", Err(LevelsError::Level("1}]=debug".to_owned()))),
            ("a:b=debug", Err(LevelsError::Module("a:b".to_owned()))),
            ("=debug", Err(LevelsError::Module(String::new()))),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<Levels>().map(|levels| levels.to_string()), expected.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn one_level_for_all_forgets_those_of_modules_and_a_mistake_changes_nothing() {
        let before: Levels = "info,leno_proxy::xds=debug".parse().expect("valid");
        let rows: [(&[(&str, &str)], _); 5] = [
            (&[("level", "warn")], Ok("warn")),
            (&[("h2", "debug")], Ok("info,h2=debug,leno_proxy::xds=debug")),
            (&[("h2", "debug"), ("level", "warn")], Ok("warn,h2=debug")),
            (&[("h2", "debug"), ("level", "louder")], Err(LevelsError::Level("louder".to_owned()))),
            (&[], Err(LevelsError::Nothing)),
        ];
        for (pairs, expected) in rows {
            let changed = before.changed(pairs.iter().copied()).map(|levels| levels.to_string());
            assert_eq!(changed, expected.map(str::to_owned), "{pairs:?}");
        }
    }

    #[test]
    fn modules_are_bounded() {
        let names: Vec<String> = (0..=MAX_MODULES).map(|number| format!("m{number}")).collect();
        let pairs = || names.iter().map(|name| (name.as_str(), "debug"));
        assert_eq!(Levels::default().changed(pairs()), Err(LevelsError::TooMany));
        assert!(Levels::default().changed(pairs().skip(1)).is_ok());
    }
}
