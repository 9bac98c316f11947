//! What Leno writes into the status of a rule: whether it is accepted, and how many proxies have it.
//!
//! `Accepted` says what `leno validate` says, in the same words. `Propagated` counts the proxies that are connected here:
//! one has a rule when it has answered the generation with which the rule came into force, and has refused nothing since
//! that the rule could be part of. A refused resource stays as it was at that proxy, and so does what every rule changed of
//! it: that is why rules are counted by generation, and not by searching for their names in texts of peers.
//!
//! A status is written where it differs from what stands there, and then as a whole, by server-side apply. A mesh breathes:
//! pods come and go, and "122/122" becomes "123/123". That is no news, and a thousand rules times every pod would be more
//! writes than everything else in the cluster. So a rule that everybody has keeps the numbers with which that became true,
//! until it changes or somebody refuses it.
//!
//! Where several control planes serve, the one that leads writes, and it knows of the proxies that are connected to itself
//! and of no others. So the message says whose proxies the numbers count (`61/61 of the proxies of leno-0`); `leno status`
//! asks one control plane likewise. Sums over all would need every control plane to publish who of its proxies has which
//! rule, which is a write per rule and replica at every edit, for a figure that is old when it is read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use leno_config::diagnostic::{Diagnostic, Severity};
use leno_config::mesh::Key;
use leno_config::rules::ResourceId;
use leno_config::rules::schema::custom_kinds;
use leno_config::xds::Kind;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::client::{FIELD_MANAGER, answer};
use super::counts::{Counts, Write};
use super::objects::Subject;
use crate::ads::push::{Hub, Reach};
use crate::ads::status::rfc3339;

/// Between two writes: ten a second are nothing to an API server, and a thousand rules at the first start take two minutes.
const PACE: Duration = Duration::from_millis(100);
/// Between two looks at who has what, while something is not everywhere.
const LOOKS: Duration = Duration::from_secs(1);
/// Proxies whose refusal is quoted; of the rest the number is told.
const QUOTED: usize = 3;
/// Characters of a text that are quoted, and of a whole message. Kubernetes takes 32 KiB.
const QUOTE: usize = 400;
const MESSAGE: usize = 4000;

/// How a rule stands here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What is wrong with it or worth a word, errors first.
    pub(crate) findings: Vec<String>,
    /// Something of it is an error.
    pub(crate) is_wrong: bool,
    /// Why it is not served as it is written.
    pub(crate) held_back: Option<String>,
    /// The generation with which it came into force as it is; 0: it never did.
    pub(crate) since: u64,
}

/// How all rules stand.
pub(crate) type Standings = Arc<BTreeMap<ResourceId, Standing>>;

/// Texts and generations of what is in force, from which standings are made.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    since: HashMap<ResourceId, (Arc<str>, u64)>,
}

impl Ledger {
    /// These documents are in force since generation `number`, as far as they are others than before.
    pub(crate) fn in_force<'a>(
        &mut self,
        documents: impl Iterator<Item = (&'a ResourceId, &'a Arc<str>)>,
        number: u64,
    ) {
        let mut newer = HashMap::new();
        for (id, text) in documents {
            let since = self.since.get(id).filter(|(known, _)| known == text).map_or(number, |(_, since)| *since);
            newer.insert(id.clone(), (Arc::clone(text), since));
        }
        self.since = newer;
    }

    /// How all rules stand that are in force or spoken of.
    pub(crate) fn standings(&self, findings: &[Diagnostic], held_back: &BTreeMap<ResourceId, String>) -> Standings {
        let mut all = BTreeMap::<ResourceId, Standing>::new();
        for (id, (_, since)) in &self.since {
            all.entry(id.clone()).or_default().since = *since;
        }
        let errors_first = |finding: &&Diagnostic| finding.severity;
        let mut sorted = findings.iter().collect::<Vec<_>>();
        sorted.sort_by_key(errors_first);
        for finding in sorted {
            if let Some(id) = &finding.resource {
                let standing = all.entry(id.clone()).or_default();
                standing.is_wrong |= finding.severity == Severity::Error;
                standing.findings.push(words(finding));
            }
        }
        for (id, reason) in held_back {
            all.entry(id.clone()).or_default().held_back = Some(reason.clone());
        }
        Arc::new(all)
    }
}

/// As `leno validate` words it, without the place and the name, which the reader of a status knows.
fn words(finding: &Diagnostic) -> String {
    Diagnostic { place: None, resource: None, ..finding.clone() }.to_string()
}

/// Writes statuses while this process is the leader.
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) hub: Arc<Hub>,
    pub(crate) counts: Counts,
    /// The rules and what their status says now.
    pub(crate) subjects: watch::Receiver<Arc<Vec<Subject>>>,
    pub(crate) standings: watch::Receiver<Standings>,
    pub(crate) is_leader: watch::Receiver<bool>,
    /// The name of this control plane, whose proxies are counted.
    pub(crate) replica: String,
}

impl Writer {
    /// Does not return while the control plane runs.
    pub(crate) async fn run(mut self) {
        let mut written = HashMap::new();
        loop {
            if self.is_leader.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            let unsettled = self.look(&mut written).await;
            let again = async {
                match unsettled {
                    true => tokio::time::sleep(LOOKS).await,
                    false => std::future::pending().await,
                }
            };
            let goes_on = tokio::select! {
                changed = self.subjects.changed() => changed.is_ok(),
                changed = self.standings.changed() => changed.is_ok(),
                changed = self.is_leader.changed() => {
                    // What another leader wrote in the meantime, the watch tells.
                    written.clear();
                    changed.is_ok()
                }
                () = again => true,
                // A proxy that refuses what everybody had says so at any time.
                () = tokio::time::sleep(10 * LOOKS) => true,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Writes what differs. Returns whether something is still on its way.
    async fn look(&mut self, written: &mut HashMap<(String, Key), Echo>) -> bool {
        let subjects = Arc::clone(&self.subjects.borrow_and_update());
        let standings = Arc::clone(&self.standings.borrow_and_update());
        let mut unsettled = false;
        for subject in subjects.iter() {
            let id = id_of(subject);
            // Not looked at yet: nothing may be said.
            let Some(standing) = standings.get(&id) else { continue };
            let reach = self.hub.reach(standing.since, |kind| may_be_part_of(&subject.kind, kind));
            unsettled |= !standing.is_wrong && reach.has < reach.of;
            let counted = Counted { reach, by: &self.replica };
            let place = (subject.kind.clone(), subject.key.clone());
            let ours = written.get(&place).filter(|echo| echo.before == subject.conditions);
            let known = ours.map_or(&subject.conditions, |echo| &echo.written);
            let Some(wanted) = conditions(subject, known, standing, &counted, SystemTime::now()) else { continue };
            if !*self.is_leader.borrow() {
                return false;
            }
            let result = self.write(subject, &wanted).await;
            self.counts.wrote(result);
            match result {
                Write::Done => {
                    written.insert(place, Echo { before: subject.conditions.clone(), written: wanted });
                }
                Write::Gone => drop(written.remove(&place)),
                Write::Failed => unsettled = true,
            }
            tokio::time::sleep(PACE).await;
        }
        let still = |(kind, key): &(String, Key)| subjects.iter().any(|it| it.kind == *kind && it.key == *key);
        written.retain(|place, _| still(place));
        unsettled
    }

    async fn write(&self, subject: &Subject, conditions: &[Value]) -> Write {
        let Some(resource) = resource_of(subject) else { return Write::Gone };
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &subject.key.namespace, &resource);
        let patch = json!({
            "apiVersion": subject.api_version,
            "kind": subject.kind,
            "metadata": { "name": subject.key.name, "namespace": subject.key.namespace },
            "status": { "conditions": conditions },
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let Key { namespace, name } = &subject.key;
        match answer(api.patch_status(name, &parameters, &Patch::Apply(patch))).await {
            Ok(_) => {
                debug!(kind = subject.kind, namespace, name, "status written");
                Write::Done
            }
            Err(error) if error.status() == Some(404) => Write::Gone,
            Err(error) => {
                warn!(kind = subject.kind, namespace, name, "the status of the rule cannot be written: {error}");
                Write::Failed
            }
        }
    }
}

/// What was written, until the watch tells that it, or something else, stands there.
struct Echo {
    before: Vec<Value>,
    written: Vec<Value>,
}

fn id_of(subject: &Subject) -> ResourceId {
    let Key { namespace, name } = subject.key.clone();
    ResourceId { kind: subject.kind.clone(), namespace, name }
}

fn resource_of(subject: &Subject) -> Option<ApiResource> {
    let kind = custom_kinds().find(|kind| kind.name == subject.kind)?;
    let version = subject.api_version.rsplit('/').next()?;
    let gvk = GroupVersionKind::gvk(kind.group, version, kind.name);
    Some(ApiResource::from_gvk_with_plural(&gvk, &kind.plural()))
}

/// Whether resources of a kind can hold anything of rules of a kind.
fn may_be_part_of(rule: &str, resource: Kind) -> bool {
    match rule {
        "VirtualService" => matches!(resource, Kind::Listener | Kind::Route),
        "DestinationRule" => matches!(resource, Kind::Cluster | Kind::Endpoints | Kind::Route),
        "HealthCheck" => resource == Kind::Cluster,
        "PeerAuthentication" | "AuthorizationPolicy" => resource == Kind::Listener,
        "RequestAuthentication" | "RateLimit" => matches!(resource, Kind::Listener | Kind::Cluster | Kind::Route),
        _ => resource != Kind::Secret,
    }
}

/// Who has a rule, among the proxies of one control plane.
struct Counted<'a> {
    reach: Reach,
    /// Its name.
    by: &'a str,
}

/// The conditions to write, with those of others as they are; `None`: what stands there is right.
fn conditions(
    subject: &Subject,
    known: &[Value],
    standing: &Standing,
    counted: &Counted<'_>,
    now: SystemTime,
) -> Option<Vec<Value>> {
    let stands = |name: &str| known.iter().find(|condition| condition["type"] == name);
    let ours = [accepted(standing), propagated(standing, counted)];
    let is_right = |wanted: &Condition| {
        let Some(found) = stands(wanted.name) else { return false };
        let same_rule = found["observedGeneration"] == subject.generation;
        let same = found["status"] == wanted.status && found["reason"] == wanted.reason;
        let breathes = wanted.name == PROPAGATED
            && found["status"] == "True"
            && (wanted.status == "True" || matches!(wanted.reason, PENDING | NO_PROXIES));
        same_rule && (breathes || (same && found["message"] == wanted.message))
    };
    if ours.iter().all(is_right) {
        return None;
    }
    let others = known.iter().filter(|it| ours.iter().all(|own| it["type"] != own.name)).cloned();
    let written = ours.iter().map(|wanted| {
        // The time tells since when it has been so, not when it was written last.
        let since = stands(wanted.name).filter(|found| found["status"] == wanted.status);
        let since = since.and_then(|found| found["lastTransitionTime"].as_str()).map(str::to_owned);
        json!({
            "type": wanted.name,
            "status": wanted.status,
            "reason": wanted.reason,
            "message": wanted.message,
            "observedGeneration": subject.generation,
            "lastTransitionTime": since.unwrap_or_else(|| rfc3339(now)),
        })
    });
    Some(others.chain(written).collect())
}

const ACCEPTED: &str = "Accepted";
const PROPAGATED: &str = "Propagated";
const PENDING: &str = "Pending";
const NO_PROXIES: &str = "NoProxies";

/// One condition that we write.
struct Condition {
    name: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

fn accepted(standing: &Standing) -> Condition {
    let words = standing.held_back.iter().chain(&standing.findings).cloned().collect::<Vec<_>>().join("; ");
    let (status, reason) = match (standing.is_wrong, &standing.held_back) {
        (true, _) => ("False", "Invalid"),
        (false, Some(_)) => ("False", "HeldBack"),
        (false, None) => ("True", "Valid"),
    };
    Condition { name: ACCEPTED, status, reason, message: cut(&words, MESSAGE) }
}

fn propagated(standing: &Standing, counted: &Counted<'_>) -> Condition {
    let reach = &counted.reach;
    let condition = |status, reason, message| Condition { name: PROPAGATED, status, reason, message };
    let numbers = format!("{}/{} of the proxies of {}", reach.has, reach.of, counted.by);
    if standing.since == 0 {
        return condition("False", "NotInForce", "it is not in force, so no proxy has it".to_owned());
    }
    if !reach.refused.is_empty() {
        let quoted = reach.refused.iter().take(QUOTED);
        let quoted = quoted.map(|(node, text)| format!("refused by {node}: {}", cut(text, QUOTE)));
        let more = reach.refused.len().saturating_sub(QUOTED);
        let more = (more > 0).then(|| format!("and by {more} more"));
        let all = std::iter::once(numbers).chain(quoted).chain(more).collect::<Vec<_>>().join("; ");
        return condition("False", "Refused", cut(&all, MESSAGE));
    }
    match (reach.has, reach.of) {
        (_, 0) => condition("Unknown", NO_PROXIES, numbers),
        (has, of) if has == of => condition("True", "Everywhere", numbers),
        _ => condition("False", PENDING, numbers),
    }
}

fn cut(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
