//! One way to set the rules: what is called to install them, to find them and to clear them away.

use super::RedirectError;
use super::iptables::Ours;
use super::nft;
use super::programs::{Call, exists};
use super::rules::{Family, Rules};
use super::settings::BackendChoice;

/// A way to set the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    /// `nft`.
    Nft,
    /// `iptables` on nf_tables.
    IptablesNft,
    /// `iptables` on the old tables.
    IptablesLegacy,
}

/// What shall be captured of each family: a family that is not named is left alone, one with `None` is cleared.
pub(super) type Wanted = Vec<(Family, Option<Rules>)>;

impl Backend {
    /// All, the best first.
    pub(super) const ALL: [Self; 3] = [Self::Nft, Self::IptablesNft, Self::IptablesLegacy];

    /// Those that `choice` allows, the best first.
    pub(super) fn allowed(choice: BackendChoice) -> &'static [Self] {
        match choice {
            BackendChoice::Auto => &Self::ALL,
            BackendChoice::Nft => &[Self::Nft],
            BackendChoice::IptablesNft => &[Self::IptablesNft],
            BackendChoice::IptablesLegacy => &[Self::IptablesLegacy],
        }
    }

    /// The program without which it does not work.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::IptablesNft | Self::IptablesLegacy => self.restore(Family::V4, String::new()).program,
        }
    }

    /// The calls that turn what is there into `wanted`, one transaction each; none where nothing has to be done.
    ///
    /// Those of iptables depend on what is there, since it cannot delete a rule that may or may not exist.
    pub(super) async fn calls(self, wanted: &Wanted) -> Result<Vec<Call>, RedirectError> {
        if self == Self::Nft {
            return Ok(vec![Self::feed(nft::script(wanted))]);
        }
        let mut calls = Vec::new();
        for (family, rules) in wanted {
            let there = self.there(*family).await?;
            let shall = rules.as_ref().map(Ours::of).unwrap_or_default();
            if !(there.is_empty() && shall.is_empty()) {
                calls.push(self.restore(*family, there.into_text(&shall)));
            }
        }
        Ok(calls)
    }

    /// The same for a network namespace in which nothing of ours is.
    pub(super) fn first_calls(self, wanted: &Wanted) -> Vec<Call> {
        if self == Self::Nft {
            return vec![Self::feed(nft::script(wanted))];
        }
        let new = wanted.iter().filter_map(|(family, rules)| rules.as_ref().map(|rules| (*family, Ours::of(rules))));
        new.map(|(family, shall)| self.restore(family, Ours::default().into_text(&shall))).collect()
    }

    /// Asks the program whether it could, without doing it.
    pub(super) async fn check(self, wanted: &Wanted) -> Result<(), RedirectError> {
        for mut call in self.calls(wanted).await? {
            call.arguments = match self {
                Self::Nft => &["--check", "-f", "-"],
                Self::IptablesNft | Self::IptablesLegacy => &["--test", "--noflush", "-w", "5"],
            };
            call.run().await?;
        }
        Ok(())
    }

    /// Turns what is there into `wanted`. When that fails, what was there is there again.
    pub(super) async fn install(self, wanted: &Wanted) -> Result<(), RedirectError> {
        if self == Self::Nft {
            return Self::feed(nft::script(wanted)).run().await.map(drop);
        }
        let mut before = Vec::new();
        for (family, _) in wanted {
            before.push((*family, self.there(*family).await?));
        }
        for call in self.calls(wanted).await? {
            if let Err(error) = call.run().await {
                self.put_back(before).await?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Each family is a transaction of its own here, and the first has gone through when the second fails.
    async fn put_back(self, before: Vec<(Family, Ours)>) -> Result<(), RedirectError> {
        for (family, before) in before {
            let there = self.there(family).await?;
            if there != before {
                self.restore(family, there.into_text(&before)).run().await?;
            }
        }
        Ok(())
    }

    /// Takes away what is ours: the families of which there was something.
    ///
    /// A program that the image does not have has left nothing either, and tables that the namespace does not have are
    /// not made by asking for them.
    pub(super) async fn clear(self) -> Result<Vec<Family>, RedirectError> {
        let mut cleared = Vec::new();
        for family in [Family::V4, Family::V6] {
            if !self.has_something(family).await? {
                continue;
            }
            for call in self.calls(&vec![(family, None)]).await? {
                call.run().await?;
            }
            cleared.push(family);
        }
        Ok(cleared)
    }

    /// Whether something of ours is there.
    pub(super) async fn has_something(self, family: Family) -> Result<bool, RedirectError> {
        match self {
            Self::Nft if exists("nft") => {
                let list = Call { program: "nft", arguments: &["list", "tables"], input: String::new() };
                let tables = list.run().await?;
                Ok(tables.lines().any(|line| line.trim() == nft::table(family)))
            }
            Self::IptablesNft if exists(self.save(family).program) => Ok(!self.there(family).await?.is_empty()),
            Self::IptablesLegacy if exists(self.save(family).program) && legacy_tables(family) => {
                Ok(!self.there(family).await?.is_empty())
            }
            Self::Nft | Self::IptablesNft | Self::IptablesLegacy => Ok(false),
        }
    }

    async fn there(self, family: Family) -> Result<Ours, RedirectError> {
        Ok(Ours::saved(&self.save(family).run().await?))
    }

    fn feed(input: String) -> Call {
        Call { program: "nft", arguments: &["-f", "-"], input }
    }

    fn restore(self, family: Family, input: String) -> Call {
        let program = match (self, family) {
            (Self::IptablesLegacy, Family::V4) => "iptables-legacy-restore",
            (Self::IptablesLegacy, Family::V6) => "ip6tables-legacy-restore",
            (Self::Nft | Self::IptablesNft, Family::V4) => "iptables-nft-restore",
            (Self::Nft | Self::IptablesNft, Family::V6) => "ip6tables-nft-restore",
        };
        Call { program, arguments: &["--noflush", "-w", "5"], input }
    }

    fn save(self, family: Family) -> Call {
        let program = match (self, family) {
            (Self::IptablesLegacy, Family::V4) => "iptables-legacy-save",
            (Self::IptablesLegacy, Family::V6) => "ip6tables-legacy-save",
            (Self::Nft | Self::IptablesNft, Family::V4) => "iptables-nft-save",
            (Self::Nft | Self::IptablesNft, Family::V6) => "ip6tables-nft-save",
        };
        Call { program, arguments: &["-t", "nat"], input: String::new() }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Nft => "nft",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        })
    }
}

/// Whether this network namespace has the old table `nat`.
fn legacy_tables(family: Family) -> bool {
    let names = match family {
        Family::V4 => "/proc/self/net/ip_tables_names",
        Family::V6 => "/proc/self/net/ip6_tables_names",
    };
    std::fs::read_to_string(names).is_ok_and(|names| names.lines().any(|name| name == "nat"))
}
