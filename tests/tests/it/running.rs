//! What the command line says of running proxies: the same by the proxy's own address and through the control plane, and
//! the same as what the proxy does.

use http::Method;
use leno_tests::{Mesh, Outcome, eventually, free_port, mesh, origin, run_leno};
use serde_json::Value;

use crate::relay::all_can_be_asked;

/// Each entry answers with a status of its own, so that a reply names the entry that it comes from.
fn rules(first: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app}}
spec:
  hosts: [app]
  http:
  - match: [{{uri: {{prefix: /a}}, headers: {{x-user: {{exact: jason}}}}}}]
    directResponse: {{status: {first}}}
  - match: [{{uri: {{prefix: /a}}}}]
    directResponse: {{status: 211}}
  - match: [{{uri: {{prefix: /b}}}}]
    redirect: {{uri: /a, redirectCode: 302}}
  - match: [{{uri: {{prefix: /c}}}}]
    rewrite: {{uri: /}}
    headers: {{request: {{set: {{x-a: b}}}}, response: {{remove: [x-c]}}}}
    fault: {{delay: {{fixedDelay: 0.001s, percentage: {{value: 1}}}}}}
    route: [{{destination: {{host: app}}}}]
"
    )
}

/// Method, URL and headers.
type Request<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

async fn started(first: u16) -> Mesh {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(&rules(first)).start().await;
    mesh.settles().await;
    mesh
}

/// The proxy of the mesh's client, as each way names it.
async fn ways(mesh: &Mesh, by_name: &str) -> [Vec<String>; 2] {
    let admin = format!("http://{}", mesh.client.admin().await);
    let control_plane = format!("http://{}", mesh.control_plane.as_ref().unwrap().http());
    let relayed = [by_name, "client", "--address", &control_plane];
    let relayed = relayed.into_iter().filter(|word| !word.is_empty()).map(str::to_owned).collect();
    [vec!["--proxy".to_owned(), admin], relayed]
}

fn leno(words: &[&str], way: &[String]) -> Outcome {
    let all: Vec<&str> = words.iter().copied().chain(way.iter().map(String::as_str)).collect();
    run_leno(&all, "")
}

fn json(words: &[&str], way: &[String]) -> Value {
    let outcome = leno(&[words, &["-o", "json"]].concat(), way);
    assert_eq!(outcome.code, 0, "{words:?} {way:?}: {}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_shows_the_same_of_a_proxy_by_both_ways() {
    let mesh = started(210).await;
    let [direct, relayed] = ways(&mesh, "").await;
    eventually("the control plane can ask the proxy", async || {
        let outcome = leno(&["config", "listeners"], &relayed);
        if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
    })
    .await;
    for (kind, words) in [
        ("listeners", &["ADDRESS", "outbound", "HTTP"][..]),
        ("routes", &["HOSTS", "/a*", "x-user=jason", "VirtualService", "default/app[1]"]),
        ("clusters", &["SERVICE", "app.default.svc.cluster.local", "EDS"]),
        ("endpoints", &["ENDPOINT", "HEALTHY", "app.default:80"]),
        ("all", &["SERVICE", "ENDPOINT"]),
    ] {
        for way in [&direct, &relayed] {
            let table = leno(&["config", kind], way);
            assert_eq!(table.code, 0, "{}", table.stderr);
            for word in words {
                assert!(table.stdout.contains(word), "{word} is missing in\n{}", table.stdout);
            }
            assert!(!table.stdout.contains('\u{1b}'), "colours are for terminals");
            assert!(table.stdout.lines().all(|line| line.chars().count() <= 80), "{}", table.stdout);
        }
        if kind != "all" && kind != "endpoints" {
            assert_eq!(json(&["config", kind], &direct), json(&["config", kind], &relayed), "{kind}");
        }
    }
    let one = json(&["config", "clusters", "--fqdn", "app", "--port", "80", "--subset", "v1"], &direct);
    assert_eq!(one.as_array().map(Vec::len), Some(1), "{one}");
    let yaml = leno(&["proxy-config", "cluster", "-o", "yaml"], &direct);
    assert!(yaml.stdout.contains("name: outbound|80||app.default.svc.cluster.local"), "{}", yaml.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_proxy_explains_what_it_does_whatever_the_files_say() {
    let mut mesh = started(210).await;
    let [direct, relayed] = ways(&mesh, "--of").await;
    let files = mesh.rules_directory().display().to_string();
    let requests: [Request<'_>; 6] = [
        ("GET", "http://app/a", &[("x-user", "jason")]),
        ("POST", "http://app/a/b?c=d", &[("x-user", "maria")]),
        ("GET", "http://app.default/b", &[]),
        ("GET", "http://app:80/nowhere", &[]),
        ("GET", "http://app/a/../b", &[]),
        ("GET", "http://app/%2e%2e/a", &[]),
    ];
    for (method, url, headers) in requests {
        let fields: Vec<String> = headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut words = vec!["explain", method, url];
        fields.iter().for_each(|field| words.extend(["-H", field]));
        let by_files = json(&words, &["-f".to_owned(), files.clone()]);
        let by_proxy = json(&words, &direct);
        eventually("the control plane asks the proxy", async || {
            let by_name = leno(&words, &relayed);
            if by_name.code == 0 { Ok(()) } else { Err(by_name.stderr) }
        })
        .await;
        let by_name = json(&words, &relayed);
        assert_eq!(by_name, by_files, "the control plane knows where the rules stand");
        let served = mesh.ask(Method::from_bytes(method.as_bytes()).unwrap(), url, headers).await.status;
        for told in [&by_files, &by_proxy, &by_name] {
            assert_eq!(told["status"], served, "{url}: {told:#}");
            assert_eq!(told["rule"]["index"], by_files["rule"]["index"], "{url}: {told:#}");
            assert_eq!(told["lost"].as_array().map(Vec::len), by_files["lost"].as_array().map(Vec::len));
        }
    }
    let forwarded = json(&["explain", "GET", "http://app/c/d"], &direct);
    assert_eq!(forwarded["clusters"][0]["name"], "outbound|80||app.default.svc.cluster.local");
    assert_eq!(
        (&forwarded["rewrite"]["path"], &forwarded["policy"]["request_headers"]["set"][0]["name"]),
        (&"//d".into(), &"x-a".into())
    );
    let text = leno(&["explain", "GET", "http://app/c"], &direct);
    assert!(
        text.stdout.contains("fault     delay of 1ms for 1 %") && text.stdout.contains("by what it holds now"),
        "{}",
        text.stdout
    );

    // Nobody tells the proxy of this edit.
    mesh.control_plane().kill();
    mesh.edit(&rules(299));
    let words = ["explain", "GET", "http://app/a", "-H", "x-user=jason"];
    assert_eq!(json(&words, &["-f".to_owned(), files])["status"], 299);
    assert_eq!(json(&words, &direct)["status"], 210);
    assert_eq!(mesh.ask(Method::GET, "http://app/a", &[("x-user", "jason")]).await.status, 210);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_of_logs_are_shown_and_changed_in_proxy_and_control_plane() {
    let mesh = started(210).await;
    let [direct, relayed] = ways(&mesh, "").await;
    let own = [relayed[1].clone(), relayed[2].clone(), "--control-plane".to_owned()];
    eventually("the control plane can ask the proxy", async || {
        let outcome = leno(&["logs", "level"], &relayed);
        if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
    })
    .await;
    for way in [&direct[..], &own[..]] {
        let before = json(&["logs", "level"], way);
        assert!(before["level"].is_string(), "{before}");
        let after = json(&["logs", "level", "leno_proxy::xds=trace"], way);
        assert_eq!((&after["level"], &after["modules"]["leno_proxy::xds"]), (&before["level"], &"trace".into()));
        assert_eq!(json(&["logs", "level"], way), after);
    }
    let control_plane = &relayed[2];
    let changed = leno(&["logs", "level", "client", "warn", "--address", control_plane], &[]);
    assert_eq!(changed.code, 0, "{}", changed.stderr);
    assert_eq!(json(&["logs", "level"], &direct)["level"], "warn");
    let wrong = leno(&["logs", "level", "client", "loud", "--address", control_plane], &[]);
    assert!(wrong.code == 2 && wrong.stderr.contains("`loud` is no level"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_asked_is_told_with_a_remedy_and_a_code() {
    let mesh = started(210).await;
    let control_plane = format!("http://{}", mesh.control_plane.as_ref().unwrap().http());
    let unknown = run_leno(&["config", "routes", "nobody", "--address", &control_plane], "");
    assert!(unknown.code == 2 && unknown.stderr.contains("client.default"), "{unknown:?}");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for words in [
        &["config", "routes", "--proxy", &nobody][..],
        &["config", "routes", "client", "--address", &nobody],
        &["explain", "GET", "http://app/", "--proxy", &nobody],
        &["logs", "level", "debug", "--proxy", &nobody],
    ] {
        let outcome = run_leno(words, "");
        assert!(outcome.code == 3 && outcome.stdout.is_empty(), "{words:?}: {outcome:?}");
        assert_eq!(outcome.stderr.trim_end().lines().count(), 1, "{}", outcome.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_of_a_proxy_is_shown_and_its_key_is_not() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).encrypted().start().await;
    all_can_be_asked(&mesh).await;
    let certificate = mesh.client.certs().await.unwrap()["certificate"].clone();
    let file = mesh.client.state().join("svid.pem");
    // It is in force before it is on disk.
    let kept =
        eventually("the key is kept", async || std::fs::read_to_string(&file).map_err(|why| why.to_string())).await;
    let key: Vec<&str> = kept.lines().skip_while(|line| !line.contains("PRIVATE KEY")).skip(1).collect();
    let until = certificate["valid_until"].as_str().expect("it has an end");
    for way in ways(&mesh, "").await {
        for form in ["table", "wide", "json", "yaml"] {
            let shown = leno(&["config", "secrets", "-o", form], &way);
            assert_eq!(shown.code, 0, "{}", shown.stderr);
            assert!(!shown.stdout.contains("PRIVATE") && !shown.stdout.contains(key[0]), "{form}: {}", shown.stdout);
            // A table has too little room for an identity in one line.
            let id = if form == "table" { "sa/client" } else { "spiffe://cluster.local/ns/default/sa/client" };
            for fact in [until, id] {
                assert!(shown.stdout.contains(fact), "{fact} is not in {form}: {}", shown.stdout);
            }
        }
        let json = json(&["config", "secrets"], &way);
        assert_eq!(
            (&json["certificate"]["id"], &json["certificate"]["serial"]),
            (&certificate["id"], &certificate["serial"])
        );
        assert_eq!(json["certificate"]["is_valid"], true, "{json:#}");
    }
}

/// Planted wherever rules may hold one.
const SECRETS: [&str; 4] = ["hunter2-header", "hunter2-cookie", "hunter2-symmetric", "hunter2-kubernetes"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bug_report_holds_everything_but_secrets() {
    let mesh = started(210).await;
    let [header, cookie, symmetric, kubernetes] = SECRETS;
    let planted = format!(
        "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: planted}}
spec:
  hosts: [planted.example.com]
  http:
  - match: [{{headers: {{cookie: {{exact: \"session={cookie}\"}}}}}}]
    headers: {{request: {{set: {{authorization: \"Basic {header}\"}}}}}}
    route: [{{destination: {{host: app}}}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: planted}}
spec:
  jwtRules:
  - issuer: issuer
    jwks: '{{\"keys\": [{{\"kty\": \"oct\", \"kid\": \"1\", \"k\": \"{symmetric}\"}}]}}'
---
apiVersion: v1
kind: Secret
metadata: {{name: planted}}
data: {{password: {kubernetes}}}
"
    );
    mesh.edit(&format!("{}{planted}", rules(210)));
    let [direct, relayed] = ways(&mesh, "").await;
    eventually("the proxy holds the new route", async || {
        let routes = leno(&["config", "routes", "-o", "json"], &direct);
        if routes.stdout.contains("planted.example.com") { Ok(()) } else { Err(routes.stdout) }
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.tar");
    let (file, files) = (file.to_str().unwrap(), mesh.rules_directory().display().to_string());
    let admin = direct[1].clone();
    let words = ["bug-report", "-f", &files, "--output", file, "--address", &relayed[2], "--proxy", &admin];
    let outcome = run_leno(&words, "");
    assert_eq!((outcome.code, outcome.stdout.trim_end()), (0, file), "{}", outcome.stderr);

    let tar = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
    for secret in SECRETS {
        assert!(!tar.contains(secret), "{secret} is in the report");
    }
    let name = admin.trim_start_matches("http://");
    for part in [
        "leno-bug-report/manifest.json",
        "control-plane/status.json",
        "rules.yaml",
        "[redacted]",
        "planted.example.com",
        &format!("proxies/{name}/config_dump.json"),
        &format!("proxies/{name}/metrics.txt"),
        "proxies/client.default/",
    ] {
        assert!(tar.contains(part), "{part} is missing");
    }
    assert_eq!(run_leno(&words, "").code, 2, "nothing is overwritten");
}
