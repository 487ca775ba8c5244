//! From a query message to the answer's bytes. Pure.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};

use crate::zone::{Lookup, Zone};

/// Bytes that fit into a UDP answer where the client does not say more.
///
/// Source: RFC 1035, section 4.2.1.
const PLAIN_UDP: u16 = 512;
/// Most that we send over UDP, whatever the client says: larger answers risk fragments.
///
/// Source: DNS Flag Day 2020.
const LARGEST_UDP: u16 = 1232;

/// How a query came in: decides how long its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram; too long an answer is cut, and the client asks again over TCP.
    Udp,
    /// A stream.
    Tcp,
}

/// What to do with a query.
#[derive(Debug, PartialEq)]
pub enum Reply {
    /// Send these bytes back.
    Answer(Vec<u8>),
    /// Not our name: let an upstream server answer.
    Forward,
    /// Not a query, or no DNS message at all: stay silent.
    Drop,
}

/// What `zone` says to `query`.
#[must_use]
pub fn reply(zone: &Zone, query: &[u8], transport: Transport) -> Reply {
    let Ok(message) = Message::from_vec(query) else { return Reply::Drop };
    if message.metadata.message_type != MessageType::Query {
        return Reply::Drop;
    }
    let [question] = &message.queries[..] else { return fail(&message, ResponseCode::FormErr) };
    if message.metadata.op_code != OpCode::Query {
        return fail(&message, ResponseCode::NotImp);
    }
    let mut answer = answer_to(&message);
    answer.metadata.authoritative = true;
    match zone.lookup(question.name(), question.query_type()) {
        Lookup::Foreign => return Reply::Forward,
        Lookup::Found { answers, additionals } => {
            answer.add_answers(answers);
            answer.add_additionals(additionals);
        }
        Lookup::NoData => drop(answer.add_authority(zone.authority())),
        Lookup::NoSuchName => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authority(zone.authority());
        }
    }
    encode(&answer, &message, transport)
}

/// The answer to a query that no upstream server answered.
#[must_use]
pub fn server_failure(query: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    match fail(&message, ResponseCode::ServFail) {
        Reply::Answer(bytes) => Some(bytes),
        Reply::Forward | Reply::Drop => None,
    }
}

fn answer_to(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(query.queries.clone());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST_UDP);
        answer.set_edns(edns);
    }
    answer
}

fn fail(query: &Message, code: ResponseCode) -> Reply {
    let mut answer = answer_to(query);
    answer.metadata.response_code = code;
    answer.to_vec().map_or(Reply::Drop, Reply::Answer)
}

fn encode(answer: &Message, query: &Message, transport: Transport) -> Reply {
    let Ok(bytes) = answer.to_vec() else { return fail(query, ResponseCode::ServFail) };
    let limit = query
        .edns
        .as_ref()
        .map_or(PLAIN_UDP, |edns| edns.max_payload().clamp(PLAIN_UDP, LARGEST_UDP));
    if transport == Transport::Tcp || bytes.len() <= usize::from(limit) {
        return Reply::Answer(bytes);
    }
    answer.truncate().to_vec().map_or(Reply::Drop, Reply::Answer)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;
    use std::sync::Arc;

    use hickory_proto::op::Query;
    use hickory_proto::rr::{Name, RecordType};
    use serde_json::json;

    use super::*;

    fn zone(n_endpoints: u8) -> Zone {
        let service = json!({"metadata": {"name": "db", "namespace": "shop"},
            "spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        let endpoints: Vec<_> =
            (0..n_endpoints).map(|n| json!({"addresses": [format!("10.0.0.{n}")]})).collect();
        let slice = json!({"addressType": "IPv4", "endpoints": endpoints, "metadata": {"name": "db-1",
            "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}}});
        let domain = Name::from_str("cluster.local.").unwrap();
        let service = Arc::new(serde_json::from_value(service).unwrap());
        let slice = Arc::new(serde_json::from_value(slice).unwrap());
        Zone::new(&domain, &[service], &[slice])
    }

    fn query(name: &str) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    }

    #[track_caller]
    fn answered(zone: &Zone, name: &str, transport: Transport) -> Message {
        match reply(zone, &query(name), transport) {
            Reply::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn our_names_are_answered_with_authority() {
        let answer = answered(&zone(2), "db.shop.svc.cluster.local.", Transport::Udp);
        assert_eq!(answer.answers.len(), 2);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    }

    #[test]
    fn a_missing_name_is_denied_with_its_authority() {
        let answer = answered(&zone(0), "x.shop.svc.cluster.local.", Transport::Udp);
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    }

    #[test]
    fn what_does_not_fit_a_datagram_is_cut_there_and_whole_over_tcp() {
        let cut = answered(&zone(100), "db.shop.svc.cluster.local.", Transport::Udp);
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let whole = answered(&zone(100), "db.shop.svc.cluster.local.", Transport::Tcp);
        assert_eq!(whole.answers.len(), 100);
    }

    #[test]
    fn other_names_are_forwarded_and_noise_is_dropped() {
        assert_eq!(reply(&zone(0), &query("example.com."), Transport::Udp), Reply::Forward);
        assert_eq!(reply(&zone(0), b"noise", Transport::Udp), Reply::Drop);
    }
}
