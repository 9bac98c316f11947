//! What both data planes are asked: a service with its rules, and requests with their scripts.

use bytes::Bytes;
use http::Method;
use leno_tests::scripted::Manner;
use leno_tests::{Call, Protocol, full, scripted};
use serde_json::{Value, json};

/// A service of its own, with rules of its own: cases do not meet.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// Lower case letters, digits and `-`; the service is called so.
    pub(super) name: String,
    /// Version and manner of each endpoint.
    pub(super) endpoints: Vec<(String, Manner)>,
    /// Protocol of the port, as a ServiceEntry has it.
    pub(super) protocol: &'static str,
    /// `http` of its VirtualService; empty: it has none. `HOST` stands for the service.
    http: String,
    /// `trafficPolicy` of its DestinationRule, without the braces.
    policy: String,
    /// More documents. `HOST` stands for the service.
    documents: String,
    pub(super) asks: Vec<Ask>,
    pub(super) security: Securities,
    pub(super) order: Order,
}

/// Whether it matters which endpoint saw an attempt first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Matters,
    /// Attempts are sorted by endpoint: which one is drawn first is chance.
    IsChance,
}

/// In which settings a case can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Securities {
    Both,
    /// What is written past HTTP/2 cannot be written past TLS.
    ClearText,
}

/// One endpoint, `v1`, that does as it is told, and no rule.
pub(super) fn case(name: &str) -> Case {
    Case {
        name: name.to_owned(),
        endpoints: vec![("v1".to_owned(), Manner::Obeys)],
        protocol: "HTTP",
        http: String::new(),
        policy: String::new(),
        documents: String::new(),
        asks: Vec::new(),
        security: Securities::Both,
        order: Order::Matters,
    }
}

impl Case {
    /// With these endpoints.
    pub(super) fn endpoints(mut self, endpoints: &[(&str, Manner)]) -> Self {
        self.endpoints = endpoints.iter().map(|(version, manner)| ((*version).to_owned(), *manner)).collect();
        self
    }

    /// Speaking HTTP/2 with its endpoints.
    pub(super) fn http2(mut self) -> Self {
        self.protocol = "HTTP2";
        self
    }

    /// One rule of a VirtualService, without the braces and the destination.
    pub(super) fn rule(self, rule: &str) -> Self {
        self.http(&format!("[{{{rule}, route: [{{destination: {{host: HOST}}}}]}}]"))
    }

    /// The whole `http` of a VirtualService.
    pub(super) fn http(mut self, http: &str) -> Self {
        self.http = http.to_owned();
        self
    }

    /// The `trafficPolicy` of a DestinationRule, without the braces.
    pub(super) fn policy(mut self, policy: &str) -> Self {
        self.policy = policy.to_owned();
        self
    }

    /// Another document about the service.
    pub(super) fn document(mut self, document: &str) -> Self {
        self.documents += &format!("---\n{document}\n");
        self
    }

    /// One more request, and what a real Envoy makes of it: status, flags, and who saw attempts at it.
    pub(super) fn ask(mut self, ask: Ask, envoy: &str) -> Self {
        self.asks.push(Ask { envoy: Some(envoy.to_owned()), ..ask });
        self
    }

    /// One more request, again and again until a real Envoy's outcome is there: for what happens beside requests.
    pub(super) fn until(mut self, ask: Ask, envoy: &str) -> Self {
        self.asks.push(Ask { envoy: Some(envoy.to_owned()), repeats: Repeats::UntilAsExpected, ..ask });
        self
    }

    /// One more request, of which nobody knows before what becomes of it.
    pub(super) fn try_out(mut self, ask: Ask) -> Self {
        self.asks.push(ask);
        self
    }

    pub(super) fn any_order(mut self) -> Self {
        self.order = Order::IsChance;
        self
    }

    pub(super) fn only_in_clear_text(mut self) -> Self {
        self.security = Securities::ClearText;
        self
    }

    /// Its documents for the service `host`, with the endpoints at these ports.
    pub(super) fn documents(&self, host: &str, mtls: bool, ports: &[u16]) -> String {
        let labels = |version: &str| match mtls {
            true => json!({"version": version, "security.istio.io/tlsMode": "istio"}),
            false => json!({"version": version}),
        };
        let port = self.protocol.to_lowercase();
        let endpoints = self.endpoints.iter().zip(ports).map(|((version, _), number)| {
            let mut endpoint = json!({
                "address": "127.0.0.1", "ports": {port.as_str(): number}, "labels": labels(version),
            });
            if mtls {
                endpoint["serviceAccount"] = "upstream".into();
            }
            endpoint
        });
        let mut versions: Vec<&str> = self.endpoints.iter().map(|(version, _)| version.as_str()).collect();
        versions.dedup();
        let subsets = versions.iter().map(|version| json!({"name": version, "labels": {"version": version}}));
        let fqdn = format!("{host}.default.svc.cluster.local");
        let service = json!({
            "hosts": [fqdn],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": port, "protocol": self.protocol}],
            "endpoints": endpoints.collect::<Vec<_>>(),
        });
        let head = |kind: &str| {
            let metadata = format!("metadata: {{name: {host}, namespace: default}}");
            format!("---\napiVersion: networking.istio.io/v1\nkind: {kind}\n{metadata}\n")
        };
        let mut text = format!("{}spec: {service}\n", head("ServiceEntry"));
        let subsets = Value::Array(subsets.collect());
        let policy = match self.policy.as_str() {
            "" => String::new(),
            policy => format!("trafficPolicy: {{{}}}, ", policy.replace("HOST", host)),
        };
        text += &format!("{}spec: {{host: {fqdn}, {policy}subsets: {subsets}}}\n", head("DestinationRule"));
        if !self.http.is_empty() {
            let http = self.http.replace("HOST", host);
            text += &format!("{}spec: {{hosts: [{host}], http: {http}}}\n", head("VirtualService"));
        }
        text + &self.documents.replace("HOST", host)
    }
}

/// A request, or several at once.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    pub(super) protocol: Protocol,
    /// So many of it at the same time, each on a connection of its own. A single one takes the connection of the one
    /// before it.
    pub(super) together: usize,
    /// What a real Envoy makes of it.
    pub(super) envoy: Option<String>,
    pub(super) repeats: Repeats,
    /// How many attempts are waited for, after the answer.
    pub(super) reaches: usize,
}

/// How often a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    Never,
    UntilAsExpected,
}

/// `GET /` in HTTP/1.1.
pub(super) fn get(script: &str) -> Ask {
    Ask {
        method: Method::GET,
        path: "/".to_owned(),
        headers: vec![(scripted::SCRIPT.to_owned(), script.to_owned())],
        body: Bytes::new(),
        protocol: Protocol::Http1,
        together: 1,
        envoy: None,
        repeats: Repeats::Never,
        reaches: 0,
    }
}

/// `POST /` with a body of so many bytes.
pub(super) fn post(script: &str, length: usize) -> Ask {
    Ask { method: Method::POST, body: vec![b'x'; length].into(), ..get(script) }
}

/// A call of gRPC: one empty message.
pub(super) fn grpc(script: &str) -> Ask {
    let ask = Ask { method: Method::POST, path: "/shop.Cart/Add".to_owned(), ..get(script) };
    let ask = Ask { body: Bytes::from_static(&[0; 5]), protocol: Protocol::Http2, ..ask };
    ask.header("content-type", "application/grpc").header("te", "trailers")
}

impl Ask {
    pub(super) fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    pub(super) fn path(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn over_http2(self) -> Self {
        Self { protocol: Protocol::Http2, ..self }
    }

    pub(super) fn together(self, together: usize) -> Self {
        Self { together, ..self }
    }

    /// Copies of a request arrive when they arrive: so many attempts are waited for.
    pub(super) fn reaches(self, reaches: usize) -> Self {
        Self { reaches, ..self }
    }

    /// The call to `host`, as `run`.
    pub(super) fn call(&self, host: &str, run: &str) -> Call {
        let call = Call::new(self.method.clone(), &format!("http://{host}{}", self.path)).over(self.protocol);
        let call = self.headers.iter().fold(call, |call, (name, value)| call.header(name, value));
        let call = call.header(scripted::RUN, run);
        if self.body.is_empty() { call } else { call.body(full(self.body.clone())) }
    }
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers: Vec<String> = self.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        write!(f, "{:?} {} {} [{}]", self.protocol, self.method, self.path, headers.join(", "))?;
        if self.body.is_empty() { Ok(()) } else { write!(f, " and {} bytes", self.body.len()) }
    }
}
