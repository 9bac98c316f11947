//! Who has a stream, found by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leno_config::node::Node;

use super::line::Line;
use crate::ads::push::MAX_STREAMS;

/// Names that are offered in place of one that nobody has.
const SUGGESTIONS: usize = 3;
/// From so much likeness on (Jaro and Winkler: 0 to 1) a name is offered.
const LIKE: f64 = 0.8;

/// All proxies that can be asked.
#[derive(Debug, Default)]
pub(crate) struct Switchboard {
    /// By node id.
    lines: Mutex<BTreeMap<String, Arc<Line>>>,
}

/// More proxies than one process serves.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_STREAMS} proxies can be asked already; start another control plane over the same rules")]
pub(crate) struct Full;

/// Why a name does not say which proxy is meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum NotFound {
    /// Nobody has it.
    #[error("no connected proxy is called `{name}`; {suggestion}")]
    Unknown {
        /// As it was written.
        name: String,
        /// What may have been meant, or how to find out.
        suggestion: String,
    },
    /// Several have it.
    #[error("several proxies are called `{name}`: {candidates}; write one of these")]
    Ambiguous {
        /// As it was written.
        name: String,
        /// Names that are not.
        candidates: String,
    },
    /// It is there, but cannot be asked.
    #[error(
        "`{0}` is connected and has no stream for questions: it is no leno-proxy, an older one, or just about to open it"
    )]
    NoStream(String),
}

impl Switchboard {
    /// Enters a proxy; it leaves when the returned value is dropped. One that comes back before the end of its last
    /// stream was noticed takes its own place.
    pub(super) fn connect(self: &Arc<Self>, node: Node) -> Result<Connected, Full> {
        let line = Line::new(node);
        let mut lines = self.lines();
        if lines.len() >= MAX_STREAMS && !lines.contains_key(&line.id) {
            return Err(Full);
        }
        if let Some(old) = lines.insert(line.id.clone(), Arc::clone(&line)) {
            old.close();
        }
        Ok(Connected { switchboard: Arc::clone(self), line })
    }

    /// Everyone who can be asked, by node id.
    pub(crate) fn all(&self) -> Vec<Arc<Line>> {
        self.lines().values().cloned().collect()
    }

    /// Whether the node can be asked.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.lines().contains_key(id)
    }

    /// The proxy that is meant by a node id, by `NAME.NAMESPACE`, or by a name that only one has. `others` are nodes that
    /// are known and cannot be asked.
    pub(crate) fn find(&self, name: &str, others: &[Node]) -> Result<Arc<Line>, NotFound> {
        let lines = self.lines();
        if let Some(line) = lines.get(name) {
            return Ok(Arc::clone(line));
        }
        let mut found = lines.values().filter(|line| is_called(&line.node, name));
        match (found.next(), found.next()) {
            (Some(line), None) => return Ok(Arc::clone(line)),
            (Some(_), Some(_)) => {
                let all = lines.values().filter(|line| is_called(&line.node, name));
                return Err(NotFound::Ambiguous { name: name.to_owned(), candidates: candidates(all) });
            }
            (None, _) => {}
        }
        if others.iter().any(|node| node.id() == name || is_called(node, name)) {
            return Err(NotFound::NoStream(name.to_owned()));
        }
        let suggestion = suggestion(name, lines.values().map(|line| line.node.clone()));
        Err(NotFound::Unknown { name: name.escape_debug().to_string(), suggestion })
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `NAME.NAMESPACE`
pub(crate) fn full_name(node: &Node) -> String {
    format!("{}.{}", node.name, node.namespace)
}

fn is_called(node: &Node, name: &str) -> bool {
    node.name == name || name.strip_prefix(&node.name).and_then(|rest| rest.strip_prefix('.')) == Some(&node.namespace)
}

/// Names that tell nodes apart: `NAME.NAMESPACE` where that does, else node ids.
fn candidates<'a>(lines: impl Iterator<Item = &'a Arc<Line>>) -> String {
    let lines = lines.collect::<Vec<_>>();
    let mut names = lines.iter().map(|line| full_name(&line.node)).collect::<Vec<_>>();
    names.sort();
    names.dedup();
    if names.len() < lines.len() {
        names = lines.iter().map(|line| line.id.clone()).collect();
    }
    let more = names.len().saturating_sub(10);
    names.truncate(10);
    let shown = names.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

fn suggestion(name: &str, nodes: impl Iterator<Item = Node>) -> String {
    let likeness =
        |node: &Node| strsim::jaro_winkler(name, &node.name).max(strsim::jaro_winkler(name, &full_name(node)));
    let mut like = nodes.map(|node| (likeness(&node), full_name(&node))).collect::<Vec<_>>();
    if like.is_empty() {
        return "no proxy has opened a stream for questions yet".to_owned();
    }
    like.retain(|(likeness, _)| *likeness >= LIKE);
    like.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    like.truncate(SUGGESTIONS);
    match like.is_empty() {
        true => "`leno status` lists those that are connected".to_owned(),
        false => format!("did you mean {}?", like.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(" or ")),
    }
}

/// A proxy's place at the switchboard.
#[derive(Debug)]
pub(super) struct Connected {
    switchboard: Arc<Switchboard>,
    pub(super) line: Arc<Line>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.line.close();
        let mut lines = self.switchboard.lines();
        // Unless a newer stream of the same node has taken it.
        if lines.get(&self.line.id).is_some_and(|line| Arc::ptr_eq(line, &self.line)) {
            lines.remove(&self.line.id);
        }
    }
}
