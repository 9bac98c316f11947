//! Tables of what is read and written, and that garbage is only garbage.

use proptest::prelude::*;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().expect("a name");
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    map
}

fn ids(trace: u128, span: u64) -> (TraceId, SpanId) {
    (TraceId::new(trace).expect("not zero"), SpanId::new(span).expect("not zero"))
}

fn known() -> (TraceId, SpanId) {
    ids(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7)
}

/// What is read of `fields`, in a form that fits a table: the ids, the decision, whether it is an order.
fn read(fields: &[(&str, &str)]) -> (Option<(TraceId, SpanId)>, Option<bool>, bool) {
    let arrived = extract(&map(fields));
    (arrived.parent.map(|parent| (parent.trace, parent.span)), arrived.sampled, arrived.forced)
}

#[test]
fn each_format_is_read() {
    let it = Some(known());
    let short = Some(ids(0xa3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7));
    let (yes, no) = (Some(true), Some(false));
    let rows = [
        (vec![("traceparent", format!("00-{TRACE}-{SPAN}-01"))], (it, yes, false)),
        (vec![("traceparent", format!("00-{TRACE}-{SPAN}-00"))], (it, no, false)),
        // Of flags that nobody has defined yet, the known ones count.
        (vec![("traceparent", format!("00-{TRACE}-{SPAN}-ff"))], (it, yes, false)),
        (vec![("traceparent", format!("cc-{TRACE}-{SPAN}-01"))], (it, yes, false)),
        (vec![("traceparent", format!("cc-{TRACE}-{SPAN}-01-what-the-future-brings"))], (it, yes, false)),
        (vec![("b3", format!("{TRACE}-{SPAN}"))], (it, None, false)),
        (vec![("b3", format!("{TRACE}-{SPAN}-1"))], (it, yes, false)),
        (vec![("b3", format!("{TRACE}-{SPAN}-0-05e3ac9a4f6e3b90"))], (it, no, false)),
        (vec![("b3", format!("{TRACE}-{SPAN}-d"))], (it, yes, true)),
        (vec![("b3", format!("a3ce929d0e0e4736-{SPAN}-1"))], (short, yes, false)),
        (vec![("b3", "0".to_owned())], (None, no, false)),
        (vec![("b3", "d".to_owned())], (None, yes, true)),
        (vec![("x-b3-traceid", TRACE.to_owned()), ("x-b3-spanid", SPAN.to_owned())], (it, None, false)),
        (
            vec![
                ("x-b3-traceid", "A3CE929D0E0E4736".to_owned()),
                ("x-b3-spanid", SPAN.to_owned()),
                ("x-b3-sampled", "1".to_owned()),
            ],
            (short, yes, false),
        ),
        (vec![("x-b3-sampled", "false".to_owned())], (None, no, false)),
        (vec![("x-b3-flags", "1".to_owned())], (None, yes, true)),
        (vec![("uber-trace-id", format!("{TRACE}:{SPAN}:0:1"))], (it, yes, false)),
        (vec![("uber-trace-id", format!("{TRACE}%3A{SPAN}%3a%3A0"))], (it, no, false)),
        (vec![("uber-trace-id", format!("{TRACE}:f067aa0ba902b7:0:3"))], (it, yes, true)),
    ];
    for (fields, expected) in rows {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(read(&fields), expected, "{fields:?}");
    }
}

#[test]
fn what_is_not_exactly_one_of_the_forms_is_as_if_it_were_not_there() {
    let zeros = "0".repeat(32);
    let rows = [
        ("traceparent", String::new()),
        ("traceparent", "00".to_owned()),
        ("traceparent", format!("00-{TRACE}-{SPAN}")),
        ("traceparent", format!("00-{TRACE}-{SPAN}-1")),
        ("traceparent", format!("00-{TRACE}-{SPAN}-01-more")),
        ("traceparent", format!("cc-{TRACE}-{SPAN}-01more")),
        ("traceparent", format!("ff-{TRACE}-{SPAN}-01")),
        ("traceparent", format!("00-{zeros}-{SPAN}-01")),
        ("traceparent", format!("00-{TRACE}-0000000000000000-01")),
        ("traceparent", format!("00-{}-{SPAN}-01", TRACE.to_uppercase())),
        ("traceparent", format!("00-{TRACE}-{SPAN}-0g")),
        ("traceparent", format!("00_{TRACE}-{SPAN}-01")),
        ("traceparent", format!(" 00-{TRACE}-{SPAN}-01")),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e47ü-00f067aa0ba902b7-01".to_owned()),
        ("b3", format!("{zeros}-{SPAN}-1")),
        ("b3", format!("{TRACE}-{SPAN}-2")),
        ("b3", format!("{TRACE}-{SPAN}-1-1")),
        ("b3", format!("{TRACE}-{SPAN}-1-{SPAN}-x")),
        ("b3", format!("{}-{SPAN}-1", &TRACE[1..])),
        ("b3", "yes".to_owned()),
        ("x-b3-traceid", TRACE.to_owned()),
        ("x-b3-spanid", SPAN.to_owned()),
        ("x-b3-sampled", "often".to_owned()),
        ("uber-trace-id", format!("{TRACE}:{SPAN}:0")),
        ("uber-trace-id", format!("{TRACE}:{SPAN}:0:1:2")),
        ("uber-trace-id", format!("{TRACE}0:{SPAN}:0:1")),
        ("uber-trace-id", format!("0:{SPAN}:0:1")),
        ("uber-trace-id", "%3a".repeat(90)),
        ("uber-trace-id", "1".repeat(9000)),
    ];
    for (name, text) in rows {
        assert_eq!(read(&[(name, &text)]), (None, None, false), "{name}: {text}");
    }
    let twice = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(read(&[("traceparent", &twice), ("traceparent", &twice)]), (None, None, false));
}

#[test]
fn the_first_format_with_ids_is_believed_and_an_order_counts_wherever_it_stands() {
    let w3c = format!("00-{TRACE}-{SPAN}-01");
    let other = "1111111111111111-2222222222222222-0";
    let (it, second) = (Some(known()), Some(ids(0x1111_1111_1111_1111, 0x2222_2222_2222_2222)));
    assert_eq!(read(&[("traceparent", &w3c), ("b3", other)]), (it, Some(true), false));
    assert_eq!(read(&[("traceparent", "garbage"), ("b3", other)]), (second, Some(false), false));
    assert_eq!(read(&[("b3", "0"), ("uber-trace-id", &format!("{TRACE}:{SPAN}:0:1"))]), (it, Some(true), false));
    assert_eq!(read(&[("traceparent", &w3c), ("x-b3-flags", "1")]), (it, Some(true), true));
    let formats = extract(&map(&[("traceparent", "garbage"), ("b3", other), ("x-b3-flags", "1")])).formats;
    assert!(formats.has(Formats::B3) && formats.has(Formats::B3_MULTI) && !formats.has(Formats::UBER));
}

#[test]
fn each_format_that_came_is_written_and_traceparent_always() {
    let (trace, span) = known();
    let parent = SpanId::new(5);
    let context = Context { trace, span, parent, sampled: true, ordered: false, random: false };
    type Fields = &'static [(&'static str, &'static str)];
    let rows: [(Fields, Fields); 5] = [
        (&[], &[]),
        (&[("b3", "0")], &[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-0000000000000005")]),
        (
            &[("x-b3-sampled", "0")],
            &[
                ("x-b3-traceid", TRACE),
                ("x-b3-spanid", SPAN),
                ("x-b3-parentspanid", "0000000000000005"),
                ("x-b3-sampled", "1"),
            ],
        ),
        (
            &[("x-b3-flags", "1")],
            &[
                ("x-b3-traceid", TRACE),
                ("x-b3-spanid", SPAN),
                ("x-b3-parentspanid", "0000000000000005"),
                ("x-b3-flags", "1"),
            ],
        ),
        (&[("uber-trace-id", "no")], &[("uber-trace-id", "4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7:0:1")]),
    ];
    for (came, expected) in rows {
        let mut headers = map(came);
        let formats = extract(&headers).formats;
        context.write_all(&mut headers, formats);
        let mut expected = map(expected);
        let traceparent = format!("00-{TRACE}-{SPAN}-01");
        expected.insert("traceparent", traceparent.parse().expect("a value"));
        assert_eq!(headers, expected, "{came:?}");
    }
    let ordered = Context { ordered: true, parent: None, ..context };
    let mut headers = map(&[("b3", "d"), ("uber-trace-id", "x")]);
    ordered.write_all(&mut headers, extract(&map(&[("b3", "d"), ("uber-trace-id", "x")])).formats);
    assert_eq!(headers["b3"], format!("{TRACE}-{SPAN}-d"));
    assert_eq!(headers["uber-trace-id"], format!("{TRACE}:{SPAN}:0:3"));
    let short = Context { trace: ids(7, 1).0, parent: None, sampled: false, ..context };
    let mut headers = map(&[("b3", "0"), ("uber-trace-id", "x")]);
    short.write_all(&mut headers, extract(&map(&[("b3", "0"), ("uber-trace-id", "x")])).formats);
    assert_eq!(headers["b3"], format!("0000000000000007-{SPAN}-0"));
    assert_eq!(headers["uber-trace-id"], format!("0000000000000007:{SPAN}:0:0"));
}

#[test]
fn tracestate_travels_with_its_trace_up_to_512_bytes() {
    let (fits, long) = ("a=".to_owned() + &"x".repeat(510), "a=".to_owned() + &"x".repeat(511));
    let half = "a=".to_owned() + &"x".repeat(254);
    for (values, continued, stays) in [
        (vec![fits.as_str()], true, true),
        (vec![fits.as_str()], false, false),
        (vec![long.as_str()], true, false),
        // Several values are one list, with commas between.
        (vec![half.as_str(), &half[1..]], true, true),
        (vec![half.as_str(), &half], true, false),
        (vec!["a=1"; 600], true, false),
    ] {
        let fields: Vec<_> = values.iter().map(|value| ("tracestate", *value)).collect();
        let mut headers = map(&fields);
        tidy(&mut headers, continued);
        assert_eq!(headers.contains_key("tracestate"), stays, "{} values", values.len());
    }
}

fn any_format() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "uber-trace-id"])
}

proptest! {
    #[test]
    fn garbage_is_read_without_harm(fields in prop::collection::vec(
        (any_format(), prop_oneof!["[0-9a-f:%3A-]{0,80}", "[ -~]{0,80}"]), 0..6,
    )) {
        let fields: Vec<_> = fields.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let mut headers = map(&fields);
        let arrived = extract(&headers);
        let (trace, span) = known();
        Context { trace, span, parent: None, sampled: true, ordered: false, random: true }.write_all(&mut headers, arrived.formats);
        // Whatever came, one trace is told of in all the formats.
        let after = extract(&headers);
        prop_assert_eq!(after.parent.map(|parent| (parent.trace, parent.span)), Some((trace, span)));
    }

    #[test]
    fn what_is_written_is_read_again(trace in 1_u128.., span in 1_u64.., sampled: bool, random: bool) {
        let (trace, span) = ids(trace, span);
        let context = Context { trace, span, parent: SpanId::new(span.bytes()[7].into()), sampled, ordered: false, random };
        for format in [Formats::W3C, Formats::B3, Formats::B3_MULTI, Formats::UBER] {
            let mut headers = HeaderMap::new();
            context.write_all(&mut headers, format);
            if format != Formats::W3C {
                headers.remove(TRACEPARENT);
            }
            let parent = Some(Parent { trace, span, random: random && format == Formats::W3C });
            let expected = Arrived { parent, sampled: Some(sampled), forced: false, formats: format, source: format };
            prop_assert_eq!(extract(&headers), expected);
        }
    }

    #[test]
    fn one_changed_byte_is_noticed_or_means_something_else(at in 0_usize..53, byte in b' '..=b'~') {
        let text = format!("00-{TRACE}-{SPAN}-01");
        let mut changed = text.clone().into_bytes();
        changed[at] = byte;
        prop_assume!(changed != text.as_bytes() && at >= 2);
        let changed = String::from_utf8(changed).expect("ASCII");
        prop_assert_ne!(read(&[("traceparent", &changed)]).0, Some(known()));
    }
}
