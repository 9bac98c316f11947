//! What a client holds, one resource at a time, and how it stands to each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leno_config::xds::Kind;

use super::{KindState, Session, held};
use crate::snapshot::{Resource, Set};

/// A resource that a client was sent, brought along, or asked for by name.
#[derive(Debug, Clone)]
pub(crate) struct Holding {
    pub(crate) name: Arc<str>,
    /// Empty where it is missing.
    pub(crate) version: Arc<str>,
    pub(crate) standing: Standing,
    /// Itself, where the snapshot has this version.
    pub(crate) resource: Option<Arc<Resource>>,
}

/// How a client stands to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It uses it.
    Accepted,
    /// It was sent and is not answered yet.
    UnderWay,
    /// It has refused it.
    Refused,
    /// It has asked for it, and there is none to send, or not yet.
    Missing,
}

impl Session {
    /// What the client holds of each kind, and what it has asked for by name and does not hold.
    pub(crate) fn holdings(&self) -> BTreeMap<Kind, Vec<Holding>> {
        let of_kind = |(kind, state): (&Kind, &KindState)| {
            let set = self.snapshot.as_deref().map(|snapshot| &**snapshot.set(*kind));
            (*kind, state.holdings(set))
        };
        self.kinds.iter().filter(|(_, state)| state.seen).map(of_kind).collect()
    }
}

impl KindState {
    fn holdings(&self, set: Option<&Set>) -> Vec<Holding> {
        let under_way = self.in_flight.iter().flat_map(|sent| &sent.resources).map(|(name, _)| name);
        let under_way = under_way.collect::<BTreeSet<_>>();
        let holding = |(name, version): (Arc<str>, Arc<str>)| {
            let standing = match (self.rejected.contains(&name), under_way.contains(&name)) {
                (true, _) => Standing::Refused,
                (false, true) => Standing::UnderWay,
                (false, false) => Standing::Accepted,
            };
            let resource = set.and_then(|set| set.resources.get(&name)).filter(|it| it.version == version);
            Holding { standing, resource: resource.cloned(), name, version }
        };
        let held: Vec<_> = match &self.at_rest {
            Some(set) => self.wanted(set).map(held).map(holding).collect(),
            None => self.held.iter().map(|(name, version)| holding((Arc::clone(name), Arc::clone(version)))).collect(),
        };
        let known = held.iter().map(|holding| &*holding.name).collect::<BTreeSet<_>>();
        let missing = self.names.iter().filter(|name| !known.contains(&***name));
        let missing = missing.map(|name| Holding {
            name: Arc::clone(name),
            version: "".into(),
            standing: Standing::Missing,
            resource: None,
        });
        let missing = missing.collect::<Vec<_>>();
        [held, missing].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::Request;
    use super::*;
    use crate::snapshot::tests::snapshot;

    fn standings(session: &Session, kind: Kind) -> Vec<(String, Standing)> {
        let held = session.holdings().remove(&kind).unwrap_or_default();
        held.into_iter().map(|holding| (holding.name.to_string(), holding.standing)).collect()
    }

    fn is(name: &str, standing: Standing) -> (String, Standing) {
        (name.to_owned(), standing)
    }

    #[test]
    fn each_resource_stands_where_its_last_answer_left_it() {
        let now = Instant::now();
        let mut session = Session::new(now);
        let asks = Request { subscribe: vec!["a".to_owned(), "none".to_owned()], ..Request::default() };
        session.on_request(Kind::Endpoints, asks).unwrap();
        let missing = [is("a", Standing::Missing), is("none", Standing::Missing)];
        assert_eq!(standings(&session, Kind::Endpoints), missing, "there is no snapshot yet");
        assert!(standings(&session, Kind::Route).is_empty(), "nobody asked");

        session.on_snapshot(snapshot(&[(Kind::Endpoints, "a", "1")]));
        let sent = session.poll(now).expect("what was asked for");
        let under_way = [is("a", Standing::UnderWay), is("none", Standing::Missing)];
        assert_eq!(standings(&session, Kind::Endpoints), under_way);
        let answer = |error: Option<&str>| Request {
            nonce: Some(sent.nonce.clone()),
            error: error.map(str::to_owned),
            ..Request::default()
        };
        let mut refused = session.holdings();
        assert!(refused.remove(&Kind::Endpoints).is_some_and(|held| held[0].resource.is_some()), "with its contents");

        session.on_request(Kind::Endpoints, answer(Some("a: no"))).unwrap();
        assert_eq!(standings(&session, Kind::Endpoints)[0], is("a", Standing::Refused));

        session.on_snapshot(snapshot(&[(Kind::Endpoints, "a", "2")]));
        let sent = session.poll(now).expect("the repaired one");
        let accepts = Request { nonce: Some(sent.nonce), ..Request::default() };
        session.on_request(Kind::Endpoints, accepts).unwrap();
        while session.poll(now).is_some() {}
        assert_eq!(standings(&session, Kind::Endpoints)[0], is("a", Standing::Accepted), "also at rest");
    }
}
