//! The rules as a script for `nft -f -`: a table of our own per family, replaced in one transaction.
//!
//! `table ip leno { }` makes the table where there is none, so that deleting it cannot fail; the kernel takes the whole
//! script or none of it. Tables of the families `ip` and `ip6`, not one of `inet`: the kernel translates addresses in
//! those since 4.18, in `inet` since 5.2.

use std::fmt::Write;

use super::rules::{Condition, Family, Rule, Rules, Verdict};

/// Replaces what an earlier `apply` left of each family by what is given; `None`: by nothing.
pub(super) fn script(families: &[(Family, Option<Rules>)]) -> String {
    let mut text = String::new();
    for (family, rules) in families {
        let table = table(*family);
        let _ = writeln!(text, "{table} {{\n}}\ndelete {table}");
        if let Some(rules) = rules {
            let _ = writeln!(text, "{table} {{");
            chain(&mut text, "inbound", "prerouting", *family, &rules.inbound);
            chain(&mut text, "outbound", "output", *family, &rules.outbound);
            text.push_str("}\n");
        }
    }
    text
}

/// The table of a family, as `nft list tables` has it.
pub(super) fn table(family: Family) -> &'static str {
    match family {
        Family::V4 => "table ip leno",
        Family::V6 => "table ip6 leno",
    }
}

fn chain(text: &mut String, name: &str, hook: &str, family: Family, rules: &[Rule]) {
    // -100 is where destinations are translated (NF_IP_PRI_NAT_DST).
    let _ = writeln!(text, "\tchain {name} {{\n\t\ttype nat hook {hook} priority -100; policy accept;");
    for rule in rules {
        let _ = writeln!(text, "\t\t{}", line(rule, family));
    }
    text.push_str("\t}\n");
}

fn line(rule: &Rule, family: Family) -> String {
    let mut line = "meta l4proto tcp ".to_owned();
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    for condition in &rule.when {
        // Writing to a string cannot fail.
        let _ = match condition {
            Condition::Port(port) => write!(line, "tcp dport {port} "),
            Condition::OverLoopback => write!(line, "oifname \"lo\" "),
            Condition::From(range) => write!(line, "{ip} saddr {range} "),
            Condition::To(range) => write!(line, "{ip} daddr {range} "),
            Condition::NotTo(range) => write!(line, "{ip} daddr != {range} "),
            Condition::User(id) => write!(line, "meta skuid {id} "),
            Condition::NotUser(id) => write!(line, "meta skuid != {id} "),
            Condition::Group(id) => write!(line, "meta skgid {id} "),
        };
    }
    match rule.then {
        Verdict::Pass => line.push_str("return"),
        Verdict::Redirect(port) => {
            let _ = write!(line, "redirect to :{port}");
        }
    }
    line
}
