//! `leno explain`: where a request would go, by which rule, and why not by another.
//!
//! The rules are compiled for one proxy as the control plane compiles them, the request is made canonical and matched by
//! the data plane's own code: what is said here is what happens there.

mod access;
mod by_rules;
mod flag;
mod inject;
mod running;
mod text;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use leno_config::defaults;
use leno_config::identity::SpiffeId;
use leno_config::mesh::Mesh;
use leno_config::node::Node;
use leno_config::rules::last_good::LastGood;
use leno_config::rules::{self, Document};
use leno_proxy::policy::jwt::Claims;

use super::Output;
use super::failure::Failure;
use super::proxy_client::{ProxyClient, Way};
use access::Credentials;

/// `leno explain`
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    request: Option<RequestArguments>,
    // Not in there: clap does not see whether a group is given that has others in it.
    #[command(flatten)]
    way: Way,
    #[command(subcommand)]
    word: Option<Word>,
}

/// What is no request.
#[derive(Debug, Clone, clap::Subcommand)]
enum Word {
    /// Say what a response flag of the access log means, and what to do about it
    Flag {
        /// Letters as in the log; several with commas or spaces
        #[arg(value_name = "FLAG", required = true)]
        flags: Vec<String>,
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Say why pods get a sidecar or not, by which label, and where it stands
    Inject(Box<inject::Arguments>),
}

/// A request, and who is asked about it.
#[derive(Debug, Clone, clap::Args)]
struct RequestArguments {
    /// Method of the request
    #[arg(value_name = "METHOD")]
    method: Method,
    /// What the client calls, as in http://reviews:9080/reviews/1
    #[arg(value_name = "URL")]
    url: String,
    /// A header of the request, as in end-user=jason or 'end-user: jason'; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// File or directory with rules, - for standard input; may be given several times. With --of or --proxy they only say
    /// where the rules stand
    #[arg(short = 'f', long = "rules", value_name = "RULES", required_unless_present_any = ["of", "proxy"])]
    rules: Vec<PathBuf>,
    /// Ask this running proxy, by what it really holds: NAME.NAMESPACE, NAME or its node id
    #[arg(long, value_name = "PROXY", conflicts_with = "proxy")]
    of: Option<String>,
    /// Who calls: a WorkloadEntry, an app or a service, with its namespace where that is not `default`; or an identity, as
    /// in spiffe://cluster.local/ns/default/sa/productpage
    #[arg(long, value_name = "[NAMESPACE/]WORKLOAD|SPIFFE-ID", conflicts_with_all = ["of", "proxy"])]
    from: Option<String>,
    /// The caller has no sidecar and comes in clear text
    #[arg(long, conflicts_with_all = ["of", "proxy"])]
    plain_text: bool,
    /// Where the connection comes from; the caller's address where none is given
    #[arg(long, value_name = "IP", conflicts_with_all = ["of", "proxy"])]
    source_ip: Option<IpAddr>,
    /// What a good token says, as in '{"iss": "https://issuer.example", "sub": "jason"}'
    #[arg(long, value_name = "JSON", value_parser = parse_claims)]
    token_claims: Option<TokenClaims>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Claims, and as they were written.
#[derive(Debug, Clone)]
struct TokenClaims {
    text: String,
    claims: Claims,
}

/// Explains and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Arguments { request, way, word } = arguments;
    let answer = match (word, request) {
        (Some(Word::Flag { flags, output }), _) => {
            let found = flag::find(flags).map_err(Failure::usage)?;
            output.render(&found, |room| flag::render(&found, room))?
        }
        (Some(Word::Inject(arguments)), _) => inject::explain(arguments)?,
        (None, Some(request)) if request.of.is_some() || way.proxy.is_some() => by_proxy(request, way)?,
        (None, Some(request)) => by_rules(request).map_err(Failure::usage)?,
        (None, None) => {
            return Err(Failure::usage(anyhow::anyhow!(
                "say a request, as in `leno explain GET http://reviews:9080/ -f RULES`, a flag: `leno explain flag UC`, or files with pods: `leno explain inject -f FILE`"
            )));
        }
    };
    write!(anstream::stdout(), "{answer}")?;
    Ok(ExitCode::SUCCESS)
}

/// By rules as they are written.
fn by_rules(arguments: &RequestArguments) -> anyhow::Result<String> {
    let documents = served(&arguments.rules)?;
    let mesh = Mesh::new(&documents);
    let (node, identity) = caller(&mesh, arguments.from.as_deref())?;
    let credentials = Credentials {
        identity: identity.filter(|_| !arguments.plain_text),
        address: arguments.source_ip.unwrap_or(node.ip),
        claims: arguments.token_claims.as_ref().map(|token| token.claims.clone()),
    };
    let request = request(arguments)?;
    let verdict = by_rules::verdict(&mesh, &node, &credentials, request);
    arguments.output.render(&verdict, |room| text::render(&arguments.asked(), &text::caller(&node), &verdict, room))
}

/// By what a running proxy holds.
fn by_proxy(arguments: &RequestArguments, way: &Way) -> Result<String, Failure> {
    // What makes no sense is refused before anybody is asked.
    request(arguments).map_err(Failure::usage)?;
    let documents = match arguments.rules.is_empty() {
        true => None,
        false => Some(served(&arguments.rules).map_err(Failure::usage)?),
    };
    let proxy = ProxyClient::new(way, arguments.of.as_deref())?;
    let mut verdict = running::verdict(&proxy, arguments)?;
    let mesh = documents.as_ref().map(|documents| Mesh::new(documents));
    running::find_places(&mut verdict, mesh.as_ref(), &way.address);
    let caller = format!("the app of {proxy}, by what it holds now");
    Ok(arguments.output.render(&verdict, |room| text::render(&arguments.asked(), &caller, &verdict, room))?)
}

impl RequestArguments {
    /// As it was written.
    fn asked(&self) -> String {
        format!("{} {}", self.method, self.url)
    }

    /// With its scheme.
    fn whole_url(&self) -> String {
        match self.url.contains("://") {
            true => self.url.clone(),
            false => format!("http://{}", self.url),
        }
    }
}

/// The documents that a control plane would serve. What it would leave out is told on stderr: an explanation without some
/// rules had better say so.
fn served(paths: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut last_good = LastGood::default();
    let outcome = last_good.update(rules::parse(&rules::read(paths)?));
    let errors: Vec<_> = outcome.diagnostics.iter().filter(|finding| finding.is_error()).collect();
    if let Some(first) = errors.first() {
        let mut stderr = anstream::stderr();
        writeln!(stderr, "warning: some rules have errors and are left out, as they would not be served")?;
        writeln!(stderr, "  {first}")?;
        if errors.len() > 1 {
            writeln!(stderr, "help: `leno validate` shows all {} errors", errors.len())?;
        }
    }
    Ok(last_good.documents().cloned().collect())
}

/// The proxy beside the caller, and its identity.
fn caller(mesh: &Mesh, from: Option<&str>) -> anyhow::Result<(Node, Option<SpiffeId>)> {
    if let Some(id) = from.filter(|from| from.starts_with("spiffe://")) {
        let id = SpiffeId::parse(id).with_context(|| format!("`{id}` is not a SPIFFE ID"))?;
        let (namespace, account) = id.namespace_and_service_account().unwrap_or((defaults::NAMESPACE, ""));
        let node = Node { service_account: account.to_owned(), ..Mesh::anonymous_proxy(namespace) };
        return Ok((node, Some(id)));
    }
    let node = workload(mesh, from)?;
    let identity = SpiffeId::workload(mesh.trust_domain(), &node.namespace, &node.service_account).ok();
    Ok((node, identity))
}

fn workload(mesh: &Mesh, from: Option<&str>) -> anyhow::Result<Node> {
    let Some(from) = from else { return Ok(Mesh::anonymous_proxy(defaults::NAMESPACE)) };
    let (namespace, name) = from.split_once('/').unwrap_or((defaults::NAMESPACE, from));
    if let Some(node) = mesh.proxy_of(namespace, name) {
        return Ok(node);
    }
    let known: Vec<_> = mesh.proxy_names(namespace).into_iter().collect();
    match known.is_empty() {
        true => bail!(
            "no WorkloadEntry and no service in namespace `{namespace}` names a workload; give its identity (spiffe://…), or leave --from out to ask for one without labels"
        ),
        false => {
            bail!("`{name}` is no workload, app or service in namespace `{namespace}`; there are: {}", known.join(", "))
        }
    }
}

/// The request as it comes to the proxy: HTTP/1.1 with a `Host`.
fn request(arguments: &RequestArguments) -> anyhow::Result<Parts> {
    let uri: Uri = arguments
        .whole_url()
        .parse()
        .with_context(|| format!("`{}` is not a URL such as http://reviews:9080/", arguments.url))?;
    let scheme = uri.scheme_str().unwrap_or("http");
    ensure!(
        scheme == "http",
        "`{scheme}` is not HTTP in clear text: a sidecar routes what it can read; call http:// and let a DestinationRule add TLS"
    );
    let authority = uri.authority().with_context(|| format!("`{}` names no host", arguments.url))?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut builder = Request::builder().method(arguments.method.clone()).uri(target);
    if !arguments.headers.iter().any(|(name, _)| name == header::HOST) {
        builder = builder.header(header::HOST, authority.as_str());
    }
    for (name, value) in &arguments.headers {
        builder = builder.header(name, value);
    }
    let (parts, ()) = builder.body(()).context("this is not a request")?.into_parts();
    Ok(parts)
}

/// A JSON object.
fn parse_claims(text: &str) -> Result<TokenClaims, String> {
    let claims = Claims::parse(text.as_bytes());
    let claims = claims.ok_or_else(|| format!("`{text}` is not a JSON object with claims"))?;
    Ok(TokenClaims { text: text.to_owned(), claims })
}

/// `name=value` or `name: value`, whichever sign comes first.
fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(['=', ':']).ok_or("a header has the form name=value or `name: value`")?;
    let name = name.trim().parse().map_err(|_| format!("`{name}` is not a header name"))?;
    let value = value.trim().parse().map_err(|_| format!("`{value}` is not a header value"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests;
