//! `leno-proxy` under a control plane that is not ours: grpcio serves resources as Envoy's documentation writes them.

use std::net::SocketAddr;
use std::path::Path;

use leno_tests::{Call, Origin, Process, Protocol, Proxy, eventually, free_port, metric, origin, pki, python_with_xds};
use serde_json::{Value, json};
use tempfile::TempDir;

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const LUA: &str = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua";
const UPSTREAM_TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// The foreign control plane, the proxy, and what the one tells the other.
pub(crate) struct World {
    pub(crate) server: Process,
    pub(crate) proxy: Proxy,
    resources: Value,
    directory: TempDir,
}

impl World {
    /// `None` after saying that the test is skipped.
    pub(crate) async fn start(what: &str, resources: Value) -> Option<Self> {
        let python = python_with_xds(what)?;
        let directory = TempDir::with_prefix("leno-test-").unwrap();
        write(directory.path(), &resources);
        let log = directory.path().join("xds_server.log");
        let mut command = python.script("xds_server.py");
        let server = Process::start("foreign control plane", command.arg(directory.path().join("xds.json")), &log);
        let port = eventually("the foreign control plane says its port", async || {
            let log = server.log();
            log.lines().find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok()).ok_or(log)
        })
        .await;
        let authority = pki::Authority::new("test");
        let identity = authority.issue(&pki::Leaf::of("spiffe://cluster.local/ns/default/sa/client"));
        let (certificate, key) = identity.write(directory.path(), "client");
        let roots = directory.path().join("roots.pem");
        std::fs::write(&roots, authority.pem()).unwrap();
        let keys = [
            ("control_plane", json!({"address": format!("http://127.0.0.1:{port}")})),
            ("identity", json!({"certificate": certificate, "key": key, "roots": roots})),
        ];
        let proxy = Proxy::with(directory.path(), "client", &keys);
        Some(Self { server, proxy, resources, directory })
    }

    /// Sends the resource, new or changed; `null` takes it away.
    pub(crate) fn tell(&mut self, changes: &[(&str, &str, Value)]) {
        for (kind, name, resource) in changes {
            let of_kind = self.resources[*kind].as_object_mut().unwrap();
            match resource {
                Value::Null => drop(of_kind.remove(*name)),
                resource => drop(of_kind.insert((*name).to_owned(), resource.clone())),
            }
        }
        write(self.directory.path(), &self.resources);
    }

    /// Waits until the proxy has refused something of a kind with all of these words.
    async fn hears_nack(&self, kind: &str, words: &[&str]) {
        eventually(&format!("{kind} are refused with {words:?}"), async || {
            let log = self.server.log();
            let mut nacks = log.lines().filter(|line| line.starts_with(&format!("nack {kind} ")));
            let found = nacks.any(|line| words.iter().all(|word| line.contains(word)));
            if found { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// Waits until a call is answered so.
    pub(crate) async fn answers(&self, port: u16, path: &str, status: u16, body: &str) {
        self.proxy.ready(port).await;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually(&format!("{path} on {port} is answered with {status} `{body}`"), async || {
            let reply = Call::get(&format!("http://any{path}")).try_send(address).await?;
            let fits = reply.status == status && reply.text() == body;
            if fits { Ok(()) } else { Err(format!("{} `{}`", reply.status, reply.text())) }
        })
        .await;
    }
}

/// As editors do: a new file takes the name of the old one.
fn write(directory: &Path, resources: &Value) {
    std::fs::write(directory.join(".xds.new"), resources.to_string()).unwrap();
    std::fs::rename(directory.join(".xds.new"), directory.join("xds.json")).unwrap();
}

fn socket(address: SocketAddr) -> Value {
    json!({"socketAddress": {"address": address.ip(), "portValue": address.port()}})
}

fn listener(name: &str, port: u16, table: &str, filters: &[Value]) -> Value {
    listener_with(name, port, table, filters, &json!({}))
}

/// With more keys in its connection manager.
fn listener_with(name: &str, port: u16, table: &str, filters: &[Value], keys: &Value) -> Value {
    let router = json!({"name": "envoy.filters.http.router", "typedConfig": {"@type": ROUTER}});
    let filters = filters.iter().cloned().chain([router]).collect::<Vec<_>>();
    let mut manager = json!({
        "@type": MANAGER,
        "statPrefix": name,
        "rds": {"configSource": {"ads": {}, "resourceApiVersion": "V3"}, "routeConfigName": table},
        "httpFilters": filters,
    });
    manager.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typedConfig": manager});
    json!({"name": name, "address": socket(([127, 0, 0, 1], port).into()), "filterChains": [{"filters": [filter]}]})
}

fn table(name: &str, routes: Value) -> Value {
    json!({"name": name, "virtualHosts": [{"name": "all", "domains": ["*"], "routes": routes}]})
}

fn to(cluster: &str) -> Value {
    json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster}}])
}

fn eds(name: &str) -> Value {
    json!({
        "name": name,
        "type": "EDS",
        "connectTimeout": "5s",
        "edsClusterConfig": {"edsConfig": {"ads": {}, "resourceApiVersion": "V3"}},
    })
}

fn endpoints(cluster: &str, addresses: &[SocketAddr]) -> Value {
    let members = addresses.iter().map(|address| json!({"endpoint": {"address": socket(*address)}}));
    json!({"clusterName": cluster, "endpoints": [{"lbEndpoints": members.collect::<Vec<_>>()}]})
}

/// One listener whose table leads to the cluster `app`, whose endpoint is `address`.
pub(crate) fn mesh(port: u16, address: SocketAddr) -> Value {
    json!({
        "clusters": {"app": eds("app")},
        "endpoints": {"app": endpoints("app", &[address])},
        "secrets": {},
        "listeners": {"front": listener("front", port, "table", &[])},
        "routes": {"table": table("table", to("app"))},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_resource_comes_changes_and_goes() {
    let (v1, v2, port, other) = (origin("v1").await, origin("v2").await, free_port(), free_port());
    let resources = mesh(port, v1.address());
    let Some(mut world) = World::start("a foreign control plane", resources).await else { return };
    world.answers(port, "/", 200, "v1").await;

    world.tell(&[("endpoints", "app", endpoints("app", &[v2.address()]))]);
    world.answers(port, "/", 200, "v2").await;

    let fixed = json!({
        "name": "fixed", "type": "STATIC", "connectTimeout": "5s", "loadAssignment": endpoints("fixed", &[v1.address()]),
    });
    let routes = json!([
        {"match": {"path": "/gone"}, "directResponse": {"status": 410, "body": {"inlineString": "gone"}}},
        {"match": {"prefix": "/"}, "route": {"cluster": "fixed"}},
    ]);
    world.tell(&[("clusters", "fixed", fixed), ("routes", "table", table("table", routes))]);
    world.answers(port, "/", 200, "v1").await;
    world.answers(port, "/gone", 410, "gone").await;

    world.tell(&[
        ("listeners", "second", listener("second", other, "second", &[])),
        ("routes", "second", table("second", to("app"))),
    ]);
    world.answers(other, "/", 200, "v2").await;

    world.tell(&[("clusters", "fixed", Value::Null)]);
    world.answers(port, "/", 503, "").await;
    world.tell(&[("listeners", "second", Value::Null), ("routes", "second", Value::Null)]);
    eventually("the listener is closed", async || match tokio::net::TcpStream::connect(("127.0.0.1", other)).await {
        Ok(_) => Err("it takes connections".to_owned()),
        Err(_) => Ok(()),
    })
    .await;
    world.answers(port, "/gone", 410, "gone").await;
    assert!(!world.server.log().contains("nack"), "{}", world.server.log());
}

/// What cannot be taken: kind, name, resource, and words of the refusal besides the name.
fn bad(port: u16) -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let lua = json!({"name": "envoy.filters.http.lua", "typedConfig": {"@type": LUA}});
    let regex = json!([{"match": {"safeRegex": {"regex": "("}}, "route": {"cluster": "app"}}]);
    let unweighted = json!([{"match": {"prefix": "/"}, "route": {"weightedClusters": {"clusters": [
        {"name": "app", "weight": 0}, {"name": "other", "weight": 0},
    ]}}}]);
    let hedged =
        json!([{"match": {"prefix": "/"}, "route": {"cluster": "app", "hedgePolicy": {"hedgeOnPerTryTimeout": true}}}]);
    let mut subsets = eds("app");
    subsets["lbSubsetConfig"] = json!({"subsetSelectors": [{"keys": ["version"]}]});
    let mut from_file = eds("app");
    from_file["edsClusterConfig"]["edsConfig"] = json!({"pathConfigSource": {"path": "/etc/eds.yaml"}});
    let mut weightless = endpoints("app", &[([127, 0, 0, 1], 1).into()]);
    weightless["endpoints"][0]["lbEndpoints"][0]["endpoint"] = json!({});
    vec![
        ("routes", "table", table("table", regex), "virtual_hosts[0].routes[0].match.safe_regex"),
        ("routes", "table", table("table", unweighted), "virtual_hosts[0].routes[0].route.weighted_clusters"),
        ("routes", "table", table("table", hedged), "virtual_hosts[0].routes[0].route.hedge_policy"),
        ("clusters", "app", subsets, "lb_subset_config"),
        ("clusters", "app", from_file, "eds_cluster_config.eds_config"),
        ("endpoints", "app", weightless, "endpoints[0].lb_endpoints[0].endpoint"),
        ("listeners", "front", listener("front", port, "table", &[lua]), "http_filters[0]"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_invalid_or_unsupported_is_named_and_changes_nothing_but_its_siblings_apply() {
    let (v1, port) = (origin("v1").await, free_port());
    let good = mesh(port, v1.address());
    let Some(mut world) = World::start("a foreign control plane", good.clone()).await else { return };
    world.answers(port, "/", 200, "v1").await;
    for (round, (kind, name, resource, field)) in bad(port).into_iter().enumerate() {
        // A sibling of the same kind in the same response: a new name each time, which nothing else needs.
        let (sibling, at) = (format!("sibling-{round}"), free_port());
        let beside = match kind {
            "clusters" => eds(&sibling),
            "listeners" => listener(&sibling, at, "table", &[]),
            _ => Value::Null,
        };
        world.tell(&[(kind, name, resource), (kind, &sibling, beside)]);
        world.hears_nack(kind, &[&format!("{name}: "), field]).await;
        world.answers(port, "/", 200, "v1").await;
        match kind {
            "listeners" => world.answers(at, "/", 200, "v1").await,
            "clusters" => {
                eventually("the sibling is in force", async || {
                    let held = world.proxy.config_dump().await.0["clusters"].to_string();
                    if held.contains(&sibling) { Ok(()) } else { Err(held) }
                })
                .await;
            }
            _ => {}
        }
        world.tell(&[(kind, name, good[kind][name].clone())]);
    }
    world.answers(port, "/", 200, "v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_may_be_missing_is_passed_over() {
    let (v1, port) = (origin("v1").await, free_port());
    let mut resources = mesh(port, v1.address());
    let lua = json!({"name": "envoy.filters.http.lua", "isOptional": true, "typedConfig": {"@type": LUA}});
    resources["listeners"]["front"] = listener("front", port, "table", &[lua]);
    let Some(world) = World::start("a foreign control plane", resources).await else { return };
    world.answers(port, "/", 200, "v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_taken_without_keys_and_the_last_good_ones_stay() {
    let (v1, port) = (origin("v1").await, free_port());
    let mut resources = mesh(port, v1.address());
    let sds = |name: &str| json!({"name": name, "sdsConfig": {"ads": {}, "resourceApiVersion": "V3"}});
    let mut sealed = eds("sealed");
    sealed["transportSocket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typedConfig": {
            "@type": UPSTREAM_TLS,
            "sni": "sealed",
            "commonTlsContext": {
                "tlsCertificateSdsSecretConfigs": [sds("default")],
                "combinedValidationContext": {
                    "defaultValidationContext": {},
                    "validationContextSdsSecretConfig": sds("ROOTCA"),
                },
                "alpnProtocols": ["istio"],
            },
        },
    });
    resources["clusters"]["sealed"] = sealed;
    resources["endpoints"]["sealed"] = endpoints("sealed", &[v1.address()]);
    let roots = |pem: &str| json!({"name": "ROOTCA", "validationContext": {"trustedCa": {"inlineString": pem}}});
    resources["secrets"]["ROOTCA"] = roots(&pki::Authority::new("first").pem());
    let Some(mut world) = World::start("a foreign control plane", resources).await else { return };
    world.answers(port, "/", 200, "v1").await;
    let acked = async |times: usize| {
        eventually(&format!("secrets were accepted {times} times"), async || {
            let log = world.server.log();
            if log.matches("ack secrets").count() >= times { Ok(()) } else { Err(log) }
        })
        .await;
    };
    acked(1).await;
    let first = world.proxy.config_dump().await.0["secrets"].clone();
    let second = roots(&pki::Authority::new("second").pem());
    world.tell(&[("secrets", "ROOTCA", roots("no certificate"))]);
    world.hears_nack("secrets", &["ROOTCA: validation_context: ", "no certificate"]).await;
    assert_eq!(world.proxy.config_dump().await.0["secrets"], first, "the last good ones stay");
    let keyed = json!({"name": "ROOTCA", "tlsCertificate": {"certificateChain": {"inlineString": "a"}}});
    world.tell(&[("secrets", "ROOTCA", keyed)]);
    world.hears_nack("secrets", &["ROOTCA: ", "tls_certificate"]).await;
    world.tell(&[("secrets", "ROOTCA", second)]);
    eventually("the new roots are in force", async || {
        let now = world.proxy.config_dump().await.0["secrets"].clone();
        if now == first { Err(now.to_string()) } else { Ok(()) }
    })
    .await;
}

/// The limits of a listener for one stream, which Istio has no rule for.
#[tokio::test]
async fn a_stream_that_rests_or_lasts_too_long_ends_with_its_flag() {
    let app = Origin::scripted(|_| std::future::pending()).await;
    let (idle, long) = (free_port(), free_port());
    let resources = json!({
        "listeners": {
            "idle": listener_with("idle", idle, "table", &[], &json!({"streamIdleTimeout": "0.3s"})),
            "long": listener_with(
                "long", long, "table", &[], &json!({"commonHttpProtocolOptions": {"maxStreamDuration": "0.3s"}}),
            ),
        },
        "routes": {"table": table("table", json!([{
            "match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"},
        }]))},
        "clusters": {"app": eds("app")},
        "endpoints": {"app": endpoints("app", &[app.address()])},
        "secrets": {},
    });
    let Some(world) = World::start("limits of a stream from a foreign control plane", resources).await else { return };
    for (port, flag, body) in [(idle, "SI", "stream timeout"), (long, "DT", "downstream duration timeout")] {
        world.answers(port, "/", 504, body).await;
        for protocol in Protocol::ALL {
            let reply = Call::get("http://any/").over(protocol).send(([127, 0, 0, 1], port).into()).await;
            assert_eq!((reply.status, reply.text().as_str(), reply.flag()), (504, body, flag), "{protocol:?}");
        }
        let flag = format!("response_flags=\"{flag}\"");
        assert!(metric(&world.proxy.metrics().await, "http_requests_total", &[&flag]) >= 2.0, "{flag}");
    }
}
