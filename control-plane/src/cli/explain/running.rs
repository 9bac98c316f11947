//! What becomes of a request by what a running proxy holds: the proxy is asked, for it alone knows.
//!
//! Its answer names rules, but it holds what was made of them: where they stand is looked up in files where some are given,
//! else at the control plane. Where neither knows, the places stay that the routes came with, if any.

use anyhow::Context as _;
use leno_config::ir::Origin;
use leno_config::mesh::Mesh;
use leno_proxy::explain::{RulePlace, Verdict};
use serde::Deserialize;

use super::RequestArguments;
use super::by_rules::put_places;
use crate::cli::ask::{Question, ask};
use crate::cli::failure::Failure;
use crate::cli::proxy_client::ProxyClient;
use crate::percent::escaped;

/// Rules that are looked up at a time: what is asked has to fit in a request's head.
const AT_A_TIME: usize = 40;

/// What the proxy says.
pub(super) fn verdict(proxy: &ProxyClient, request: &RequestArguments) -> Result<Verdict, Failure> {
    let headers = request.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let headers = serde_json::to_string(&headers.collect::<Vec<_>>())?;
    let mut path = format!(
        "/explain?method={}&url={}&headers={}",
        escaped(request.method.as_str()),
        escaped(&request.whole_url()),
        escaped(&headers)
    );
    if let Some(claims) = &request.token_claims {
        path.push_str(&format!("&claims={}", escaped(&claims.text)));
    }
    let answer = proxy.json(&path)?;
    Ok(serde_json::from_value(answer).with_context(|| format!("{proxy} is of another version"))?)
}

/// Where the rules of the verdict stand, as far as somebody knows.
pub(super) fn find_places(verdict: &mut Verdict, rules: Option<&Mesh>, address: &str) {
    if let Some(mesh) = rules {
        return put_places(mesh, verdict);
    }
    let losers = verdict.lost.iter_mut().map(|lost| &mut lost.rule);
    let mut all: Vec<&mut RulePlace> = verdict.rule.iter_mut().chain(losers).collect();
    for some in all.chunks_mut(AT_A_TIME) {
        let origins: Vec<&Origin> = some.iter().map(|rule| &rule.origin).collect();
        // Who asks a proxy directly may well have no control plane.
        let Ok(places) = places_of(&origins, address) else { return };
        for (rule, Place { file, line }) in some.iter_mut().zip(places) {
            if let Some(file) = file {
                (rule.file, rule.line) = (Some(file.into()), line);
            }
        }
    }
}

/// As the control plane answers; nulls for a rule that it does not know.
#[derive(Debug, Deserialize)]
struct Place {
    file: Option<String>,
    line: Option<u32>,
}

fn places_of(origins: &[&Origin], address: &str) -> Result<Vec<Place>, Failure> {
    let path = format!("/debug/places?rules={}", escaped(&serde_json::to_string(origins)?));
    let (status, answer) = ask(address, &Question::get(&path))?;
    if !status.is_success() {
        return Err(Failure::unreachable(anyhow::anyhow!("{address} answers {status}: {}", answer.trim())));
    }
    Ok(serde_json::from_str(&answer)?)
}
