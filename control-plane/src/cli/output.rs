//! The forms in which a command prints what it found.
//!
//! One set of words for all commands: whoever has learned `-o yaml` for one knows it for all. Data goes to standard
//! output, whatever else there is to say to standard error.

use std::io::Write as _;

use serde::Serialize;

use super::table::Room;

/// Form of what a command prints on stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people, no wider than the terminal
    #[default]
    #[value(alias = "text")]
    Table,
    /// For people, with everything
    Wide,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

impl Output {
    /// Whether it is a text that may change from version to version.
    pub(crate) fn is_for_people(self) -> bool {
        match self {
            Self::Table | Self::Wide => true,
            Self::Json | Self::Yaml => false,
        }
    }

    /// Prints `value`; for people, what `people` makes of it.
    pub(crate) fn print<T: Serialize>(self, value: &T, people: impl FnOnce(Room) -> String) -> anyhow::Result<()> {
        let text = self.render(value, people)?;
        // Colours are taken out again where nobody wants them.
        Ok(write!(anstream::stdout(), "{text}")?)
    }

    /// What [`Output::print`] prints.
    pub(crate) fn render<T: Serialize>(self, value: &T, people: impl FnOnce(Room) -> String) -> anyhow::Result<String> {
        Ok(match self {
            Self::Table => people(Room::of_stdout()),
            Self::Wide => people(Room::Unbounded),
            Self::Json => serde_json::to_string_pretty(value)? + "\n",
            // By way of JSON: both forms have the same shape, and no tags of Rust's enums.
            Self::Yaml => serde_yaml::to_string(&serde_json::to_value(value)?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn data_has_the_same_shape_in_json_and_yaml() {
        #[derive(Serialize)]
        enum Enum {
            Of(u8),
        }
        let shown = |form: Output| form.render(&Enum::Of(1), |room| format!("{room:?}")).unwrap();
        assert_eq!(shown(Output::Json), "{\n  \"Of\": 1\n}\n");
        assert_eq!(shown(Output::Yaml), "Of: 1\n");
        assert_eq!(shown(Output::Wide), "Unbounded");
    }

    #[test]
    fn the_forms_have_the_names_of_other_tools() {
        let names: Vec<_> = Output::value_variants().iter().filter_map(|form| form.to_possible_value()).collect();
        let names: Vec<_> = names.iter().map(|name| name.get_name()).collect();
        assert_eq!(names, ["table", "wide", "json", "yaml"]);
        assert_eq!(Output::from_str("text", false), Ok(Output::Table), "what it was called first");
    }
}
