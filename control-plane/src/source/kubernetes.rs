//! Rules, services and endpoints from the API server of a Kubernetes cluster.
//!
//! A watch task per kind ([`crate::kubernetes::watch`]) feeds one registry. What is written there (rules, Services) is
//! handed on like a set of files, once it has been quiet for [`QUIET`] and at the latest [`PATIENCE`] after the first
//! change: `kubectl apply -f` of a directory is one change. Endpoints are not written by anybody, and wait for nothing:
//! they are handed on as soon as what the API server had to say at this moment has been read.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::Client;
use leno_config::mesh::{Discovered, Key};
use leno_proxy::rule_files::{PATIENCE, QUIET};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::kubernetes::counts::Counts;
use crate::kubernetes::namespaces::Namespaces;
use crate::kubernetes::objects::Subject;
use crate::kubernetes::registry::{Changes, News, Registry};
use crate::kubernetes::watches;

use super::Written;

/// Words of the watches that wait to be read; a watch with more to say waits with it.
const QUEUE: usize = 1024;
/// Words that are read before anything is handed on: a burst is one change, and its first word does not wait for ever.
const AT_ONCE: usize = 4 * QUEUE;

/// What a cluster says.
pub(crate) enum Word {
    /// Rules and services are others.
    Written {
        written: Written,
        /// Where they run at this time.
        discovered: Arc<Discovered>,
    },
    /// Services run elsewhere.
    Endpoints(Endpoints),
}

/// Where services run now.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    pub(crate) discovered: Arc<Discovered>,
    /// Services whose endpoints have changed since the last time.
    pub(crate) services: BTreeSet<Key>,
    /// Pods of which something else is known.
    pub(crate) pods: BTreeSet<Key>,
    /// When the first word of it was read.
    pub(crate) noticed: std::time::Instant,
}

/// A cluster under watch.
pub(crate) struct Cluster {
    news: mpsc::Receiver<News>,
    registry: Registry,
    counts: Counts,
    /// When the rules that wait were first and last changed.
    waiting: Option<(Instant, Instant)>,
    /// When the oldest word was read whose endpoints have not been handed on.
    noticed: Option<Instant>,
    changes: Changes,
    /// Everything was listed, and handed on.
    complete: bool,
    namespaces: watch::Sender<Namespaces>,
    with_sidecars: watch::Sender<Arc<BTreeSet<String>>>,
    subjects: watch::Sender<Arc<Vec<Subject>>>,
    /// Kinds that the log has said are not installed.
    reported: BTreeSet<&'static str>,
    /// End when this is dropped.
    _watches: JoinSet<()>,
}

impl Cluster {
    /// Starts to watch.
    pub(crate) fn watch(client: &Client, counts: Counts) -> Self {
        let (sender, news) = mpsc::channel(QUEUE);
        let watches = watches::start(client, &sender, &counts);
        Self::new(news, counts, watches)
    }

    fn new(news: mpsc::Receiver<News>, counts: Counts, watches: JoinSet<()>) -> Self {
        Self {
            news,
            registry: Registry::new(),
            counts,
            waiting: None,
            noticed: None,
            changes: Changes::default(),
            complete: false,
            namespaces: watch::Sender::default(),
            with_sidecars: watch::Sender::default(),
            subjects: watch::Sender::default(),
            reported: BTreeSet::new(),
            _watches: watches,
        }
    }

    /// Namespaces as they are, and word of every change. Empty before the first complete list.
    pub(crate) fn namespaces(&self) -> watch::Receiver<Namespaces> {
        self.namespaces.subscribe()
    }

    /// Namespaces in which a pod has a sidecar of this mesh, and word of every change.
    pub(crate) fn with_sidecars(&self) -> watch::Receiver<Arc<BTreeSet<String>>> {
        self.with_sidecars.subscribe()
    }

    /// The rules that have a status, and word of every change of what it speaks of.
    pub(crate) fn subjects(&self) -> watch::Receiver<Arc<Vec<Subject>>> {
        self.subjects.subscribe()
    }

    /// What the cluster has to say next. Nothing is lost where this is dropped before it returns.
    pub(crate) async fn next(&mut self) -> Word {
        loop {
            if let Some(word) = self.due(Instant::now()) {
                return word;
            }
            let due =
                self.waiting.map(|(first, last)| (last + QUIET).min(first + PATIENCE)).filter(|_| self.is_listed());
            tokio::select! {
                news = self.news.recv() => match news {
                    Some(news) => self.take(news, Instant::now()),
                    // The watches have ended with the process.
                    None => std::future::pending().await,
                },
                () = until(due) => {}
            }
        }
    }

    /// Takes a word, and those that wait behind it.
    fn take(&mut self, first: News, now: Instant) {
        self.registry.take(first);
        for _ in 0..AT_ONCE {
            let Ok(news) = self.news.try_recv() else { break };
            self.registry.take(news);
        }
        let Changes { services, pods, written, subjects, namespaces, sidecars } = self.registry.settle();
        if written {
            let first = self.waiting.map_or(now, |(first, _)| first);
            self.waiting = Some((first, now));
        }
        self.changes.services.extend(services);
        self.changes.pods.extend(pods);
        if self.changes.of_endpoints() {
            self.noticed.get_or_insert(now);
        }
        if namespaces {
            self.namespaces.send_replace(self.registry.namespaces());
        }
        if sidecars {
            self.with_sidecars.send_replace(Arc::new(self.registry.with_sidecars()));
        }
        if subjects {
            self.subjects.send_replace(Arc::new(self.registry.subjects()));
        }
        self.registry.sizes().for_each(|(kind, size)| self.counts.objects(kind, size));
        self.report_absent();
    }

    fn due(&mut self, now: Instant) -> Option<Word> {
        if !self.is_listed() {
            return None;
        }
        if !self.complete {
            self.complete = true;
            info!(services = self.registry.discovered().endpoints.len(), "the API server has listed everything");
            self.changes = Changes::default();
            self.noticed = None;
            let (first, _) = self.waiting.take().unwrap_or((now, now));
            return Some(self.written(first));
        }
        if self.changes.of_endpoints() {
            let Changes { services, pods, .. } = std::mem::take(&mut self.changes);
            let noticed = self.noticed.take().unwrap_or(now).into_std();
            return Some(Word::Endpoints(Endpoints {
                discovered: self.registry.discovered(),
                services,
                pods,
                noticed,
            }));
        }
        let (first, last) = self.waiting?;
        if now < (last + QUIET).min(first + PATIENCE) {
            return None;
        }
        self.waiting = None;
        Some(self.written(first))
    }

    fn written(&self, noticed: Instant) -> Word {
        let written = Written { rules: Ok(self.registry.parsed()), noticed: noticed.into_std() };
        Word::Written { written, discovered: self.registry.discovered() }
    }

    fn is_listed(&self) -> bool {
        self.registry.missing().is_empty()
    }

    fn report_absent(&mut self) {
        let absent = self.registry.absent();
        let news = absent.difference(&self.reported).copied().collect::<Vec<_>>();
        if !news.is_empty() && self.registry.missing().is_empty() {
            let kinds = news.join(", ");
            warn!(
                "the cluster does not know {kinds}, so that there are no such rules; `leno install --crds-only | kubectl \
                 apply -f -` teaches it"
            );
            self.reported = absent.clone();
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
