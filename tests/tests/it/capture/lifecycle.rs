//! Applying, replacing, failing and removing: what is ours changes as a whole, and what is not ours never.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use leno_tests::{Outcome, leno_proxy};
use tempfile::TempDir;

use super::network::{Pod, finish, run_with};
use super::{BACKENDS, Stage, Version};

/// Nothing is captured.
const DIRECT: &[(&str, &str, &str)] =
    &[("a", "b:8080", "b app"), ("b", "a:8080", "a app"), ("a", "a:8080", "a app"), ("a's proxy", "a:8080", "a app")];

/// Everything is, to the usual ports.
const CAPTURED: &[(&str, &str, &str)] = &[("a", "b:8080", "a outbound"), ("b", "a:8080", "a inbound")];

/// Everything is, to other ports.
const ELSEWHERE: &[(&str, &str, &str)] = &[("a", "b:8080", "a other outbound"), ("b", "a:8080", "a other inbound")];
const TO_ELSEWHERE: [&str; 4] = ["--outbound-port", "16001", "--inbound-port", "16006"];

/// Rules of somebody else, who redirects port 7000 of the pod, by all three ways.
const FOREIGN: &str = "
nft 'table ip foreign { chain c { type nat hook prerouting priority -110; tcp dport 7001 redirect to :17000; }; }'
for ip in iptables-nft iptables-legacy; do
    $ip -w 30 -t nat -N FOREIGN
    $ip -w 30 -t nat -A FOREIGN -p tcp --dport 7000 -m comment --comment 'not LENO_INBOUND' -j REDIRECT --to-ports 17000
    $ip -w 30 -t nat -A PREROUTING -j FOREIGN
done";

/// All rules there are, without the kernel's own chains; the address of the loopback device too.
const RULES: &str = "
nft list tables | grep -v nat || true; for t in 'ip leno' 'ip6 leno' 'ip foreign'; do nft list table $t 2>/dev/null || true; done
for ip in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do
    echo $ip; $ip-save -t nat 2>/dev/null | grep -e '^-A' -e LENO || true
done
ip -6 address show dev lo | grep ::6/128 || true";

impl Pod {
    fn rules(&self) -> String {
        self.shell(RULES)
    }

    /// `leno-proxy redirect …` where programs of `directory` come before the system's.
    fn redirect_with(&self, directory: &Path, arguments: &[&str]) -> Outcome {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.display());
        finish(self.command(leno_proxy()).env("PATH", path).arg("redirect").args(arguments))
    }

    /// `leno-proxy redirect …` with no capability but `kept`, as setpriv(1) writes them.
    fn redirect_without_capabilities(&self, kept: &str, arguments: &[&str]) -> Outcome {
        let mut command = self.command(Path::new("setpriv"));
        command.args(["--bounding-set", kept, "--inh-caps", kept]).arg(leno_proxy()).arg("redirect").args(arguments);
        finish(&mut command)
    }
}

/// A directory with a program of that name that fails.
fn failing(program: &str) -> TempDir {
    let directory = TempDir::with_prefix("leno-test-").unwrap();
    let path = directory.path().join(program);
    std::fs::write(&path, "#!/bin/sh\necho no room in the kernel >&2\nexit 4\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applying_twice_is_applying_once_and_removing_leaves_nothing_of_ours_and_all_of_others() {
    for (backend, program) in BACKENDS {
        let Some(stage) = Stage::start(&format!("applying twice with {backend}"), program) else { return };
        // Whose rules come first at the same priority is the kernel's to say; 7001 is taken before ours is asked.
        let (before_ours, foreign) = (("b", "a:7001", "a foreign"), ("b", "a:7000", "a foreign"));
        stage.a.shell(FOREIGN);
        let before = stage.a.rules();
        assert_eq!(stage.redirect(&["remove"]), "# there are no rules of ours\n");
        assert_eq!(stage.a.rules(), before);

        stage.redirect(&["apply", "--backend", backend]);
        let once = stage.a.rules();
        assert_ne!(once, before);
        stage.expect(backend, CAPTURED);
        stage.redirect(&["apply", "--backend", backend]);
        assert_eq!(stage.a.rules(), once, "{backend}");
        stage.expect(backend, CAPTURED);
        stage.expect_of(Version::Four, backend, &[before_ours]);

        let would = stage.redirect(&["remove", "--dry-run"]);
        assert!(would.contains("LENO_") || would.contains("delete table ip6 leno"), "{would}");
        assert_eq!(stage.a.rules(), once, "a dry run does nothing");
        assert_eq!(stage.redirect(&["remove"]), format!("removed the rules set with {backend}\n"));
        stage.expect(backend, DIRECT);
        stage.expect_of(Version::Four, backend, &[before_ours, foreign]);
        assert_eq!(stage.a.rules(), before, "{backend}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_backend_was_there_before_the_last_apply_counts() {
    let Some(stage) = Stage::start("changing the backend", "iptables-legacy-restore") else { return };
    let names: Vec<&str> = BACKENDS.iter().map(|(name, _)| *name).collect();
    for old in &names {
        for new in names.iter().filter(|new| *new != old) {
            stage.redirect(&[&["apply", "--backend", old], &TO_ELSEWHERE[..]].concat());
            stage.expect(old, ELSEWHERE);
            stage.redirect(&["apply", "--backend", new]);
            stage.expect(&format!("{new} after {old}"), CAPTURED);
            let said = stage.redirect(&["remove"]);
            assert_eq!(said, format!("removed the rules set with {new}\n"), "nothing is left of {old}");
            stage.expect(&format!("{new} after {old}, removed"), DIRECT);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_setting_rules_fails_what_was_there_is_there_and_the_exit_code_says_so() {
    let Some(stage) = Stage::start("failing", "iptables-legacy-restore") else { return };
    // IPv4 has gone through when IPv6 fails.
    for (backend, program) in
        [("iptables-nft", "ip6tables-nft-restore"), ("iptables-legacy", "ip6tables-legacy-restore")]
    {
        let bad = failing(program);
        let change = [&["apply", "--backend", backend], &TO_ELSEWHERE[..]].concat();
        let before = stage.a.rules();
        let first = stage.a.redirect_with(bad.path(), &change);
        assert_eq!(first.code, 1);
        assert!(first.stderr.contains(&format!("`{program} --noflush -w 5` failed")), "{}", first.stderr);
        assert!(first.stderr.contains("no room in the kernel"), "{}", first.stderr);
        stage.expect(backend, DIRECT);
        assert!(!stage.a.rules().contains("LENO_"), "{}", stage.a.rules());
        assert!(!stage.a.rules().contains("::6/128"), "before: {before}");

        stage.redirect(&["apply", "--backend", backend]);
        let there = stage.a.rules();
        assert_eq!(stage.a.redirect_with(bad.path(), &change).code, 1);
        assert_eq!(stage.a.rules(), there);
        stage.expect(backend, CAPTURED);
        stage.redirect(&["remove"]);
    }
    // The kernel takes all of nft's script or none.
    stage.redirect(&["apply", "--backend", "nft"]);
    let there = stage.a.rules();
    let bad = TempDir::with_prefix("leno-test-").unwrap();
    let nft = "#!/bin/sh\n{ cat; echo add rule ip nowhere nothing return; } | /usr/sbin/nft \"$@\"\n";
    std::fs::write(bad.path().join("nft"), nft).unwrap();
    std::fs::set_permissions(bad.path().join("nft"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let change = [&["apply", "--backend", "nft"], &TO_ELSEWHERE[..]].concat();
    let outcome = stage.a.redirect_with(bad.path(), &change);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert_eq!(stage.a.rules(), there);
    stage.expect("nft", CAPTURED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_takes_the_first_backend_that_works() {
    let Some(stage) = Stage::start("the choice of a backend", "iptables-legacy-restore") else { return };
    assert!(stage.redirect(&["apply"]).contains("captured with nft"));
    stage.expect("auto", CAPTURED);
    let bad = failing("nft");
    // A list of tables is all that it is asked afterwards: nothing is known to be left of it then.
    stage.redirect(&["remove"]);
    let script = "#!/bin/sh\n[ \"$1\" = list ] || { echo protocol not supported >&2; exit 1; }\n";
    std::fs::write(bad.path().join("nft"), script).unwrap();
    let outcome = stage.a.redirect_with(bad.path(), &["apply"]);
    assert!(outcome.stdout.contains("captured with iptables-nft"), "{} {}", outcome.stdout, outcome.stderr);
    stage.expect("auto without nft", CAPTURED);

    std::fs::copy(bad.path().join("nft"), bad.path().join("iptables-nft-restore")).unwrap();
    stage.redirect(&["remove"]);
    let outcome = stage.a.redirect_with(bad.path(), &["apply"]);
    assert!(outcome.stdout.contains("captured with iptables-legacy"), "{} {}", outcome.stdout, outcome.stderr);
    stage.expect("auto without nf_tables", CAPTURED);

    std::fs::copy(bad.path().join("nft"), bad.path().join("iptables-legacy-restore")).unwrap();
    let outcome = stage.a.redirect_with(bad.path(), &["apply"]);
    assert_eq!(outcome.code, 1);
    for part in ["no backend works here", "nft -f -", "iptables-nft-restore", "iptables-legacy-restore"] {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_print_shows_does_in_a_shell_what_apply_does() {
    for (backend, program) in BACKENDS {
        let Some(stage) = Stage::start(&format!("printing for {backend}"), program) else { return };
        for other in BACKENDS {
            let flags =
                ["--backend", backend, "--exclude-outbound-ports", "22", "--exclude-outbound-ranges", "10.9.0.0/16"];
            // On top of nothing, then of itself or of what others set.
            stage.redirect(&[&["apply"], &flags[..]].concat());
            let applied = stage.a.rules();
            stage.redirect(&["apply", "--backend", other.0, "--include-inbound-ports", "1,2,3"]);
            let script = stage.redirect(&[&["print"], &flags[..]].concat());
            assert_eq!(script, stage.redirect(&[&["apply", "--dry-run"], &flags[..]].concat()));
            stage.a.shell(&script);
            assert_eq!(stage.a.rules(), applied, "{backend} after {}: {script}", other.0);
            stage.expect(backend, CAPTURED);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_nothing_is_set_and_the_words_say_what_is_missing() {
    let Some(stage) = Stage::start("rights", "iptables-legacy-restore") else { return };
    let before = stage.a.rules();
    for arguments in [&["apply"][..], &["remove"]] {
        let outcome = stage.a.redirect_without_capabilities("-all", arguments);
        assert_eq!(outcome.code, 1, "{arguments:?}");
        assert!(
            outcome.stderr.contains("CAP_NET_ADMIN") && outcome.stderr.contains("runAsUser: 0"),
            "{}",
            outcome.stderr
        );
    }
    let outcome = stage.a.redirect_without_capabilities("-all,+net_admin", &["apply", "--backend", "iptables-legacy"]);
    assert!(outcome.code == 1 && outcome.stderr.contains("CAP_NET_RAW"), "{}", outcome.stderr);
    assert_eq!(stage.a.rules(), before);

    // Whoever only wants to read needs no right; it is what a new pod gets.
    for (backend, _) in BACKENDS {
        let shown = stage.a.redirect_without_capabilities("-all", &["print", "--backend", backend]);
        assert_eq!(shown.code, 0, "{}", shown.stderr);
        let ran = run_with(stage.a.command(Path::new("sh")).arg("-e"), &shown.stdout);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        stage.expect(backend, CAPTURED);
        stage.redirect(&["remove"]);
    }
    // NET_ADMIN and NET_RAW are all that it takes, with a root file system that cannot be written.
    for (backend, _) in BACKENDS {
        let script = format!(
            "mount --rbind / /mnt && mount -o remount,bind,ro /mnt && mount -o bind,ro /run /mnt/run && \
             setpriv --bounding-set=-all,+net_admin,+net_raw,+sys_chroot --inh-caps=-all \
             chroot /mnt {} redirect apply --backend {backend}",
            leno_proxy().display()
        );
        let ran = finish(stage.a.command(Path::new("sh")).args(["-ec", &script]));
        assert_eq!(ran.code, 0, "{backend}: {}", ran.stderr);
        stage.expect(backend, CAPTURED);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv6_is_captured_where_there_is_some_and_can_be_left_out() {
    let Some(stage) = Stage::start("the choice of IPv6", "iptables-legacy-restore") else { return };
    let direct = &[("a", "b:8080", "b app"), ("b", "a:8080", "a app")];
    for (backend, _) in BACKENDS {
        stage.redirect(&["apply", "--backend", backend]);
        stage.expect(backend, CAPTURED);
        let said = stage.redirect(&["apply", "--backend", backend, "--ipv6", "off"]);
        assert!(said.ends_with("IPv4\n"), "{said}");
        stage.expect_of(Version::Four, backend, CAPTURED);
        stage.expect_of(Version::Six, backend, direct);
        assert!(!stage.a.rules().contains("::6/128"));
    }
    stage.a.shell("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
    for (backend, _) in BACKENDS {
        let said = stage.redirect(&["apply", "--backend", backend]);
        assert!(said.ends_with("IPv4\n"), "{said}");
        stage.expect_of(Version::Four, backend, CAPTURED);
        let outcome = stage.a.redirect(&["apply", "--backend", backend, "--ipv6", "on"]);
        assert_eq!(outcome.code, 1);
        assert!(outcome.stderr.contains("--ipv6 off"), "{}", outcome.stderr);
        stage.expect_of(Version::Four, backend, CAPTURED);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_have_variables_and_a_bad_one_is_named_and_sets_nothing() {
    let Some(stage) = Stage::start("variables", "nft") else { return };
    let run = |variables: &[(&str, &str)]| {
        let mut command = stage.a.command(leno_proxy());
        finish(command.args(["redirect", "apply"]).envs(variables.iter().copied()))
    };
    let ran = run(&[("LENO_REDIRECT_OUTBOUND_PORT", "16001"), ("LENO_REDIRECT_INCLUDE_INBOUND_PORTS", "")]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    stage.expect("variables", &[("a", "b:8080", "a other outbound"), ("b", "a:8080", "a app")]);
    let there = stage.a.rules();
    for (variable, value, words) in [
        ("LENO_REDIRECT_EXCLUDE_OUTBOUND_PORTS", "http", "--exclude-outbound-ports"),
        ("LENO_REDIRECT_INCLUDE_OUTBOUND_RANGES", "10.0.0.0/99", "--include-outbound-ranges"),
        ("LENO_REDIRECT_INBOUND_PORT", "15001", "--inbound-port"),
    ] {
        let ran = run(&[(variable, value)]);
        assert_eq!(ran.code, 2, "{variable}");
        assert!(ran.stderr.contains(words), "{variable}: {}", ran.stderr);
        assert_eq!(stage.a.rules(), there);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_without_the_programs_is_told_what_to_install() {
    let Some(stage) = Stage::start("an image without programs", "nft") else { return };
    // An empty directory over each where they are, in the mount namespace that `ip netns exec` made.
    let hide = "for d in /usr/sbin /usr/local/sbin; do mount -t tmpfs none $d; done";
    for (backend, program) in BACKENDS {
        let program = program.replace("-restore", "-save");
        let script = format!("{hide}; exec {} redirect apply --backend {backend}", leno_proxy().display());
        let ran = finish(stage.a.command(Path::new("sh")).args(["-ec", &script]));
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        let words = format!("there is no program {program}: install the package nftables or iptables");
        assert!(ran.stderr.contains(&words), "{}", ran.stderr);
    }
    assert_eq!(stage.arrives(Version::Four, "a", "b:8080"), "b app");
}
