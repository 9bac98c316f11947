//! The stream for questions on the encrypted port: a node may only be what its credential says, here too.

use leno_proxy::relay::wire::{self, Command, Report, Said};
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::*;
use crate::client::node;

type Sender = mpsc::Sender<Report>;

/// Opens a stream that says these things.
async fn open(channel: Channel, token: Option<&str>, said: Vec<Said>) -> Result<(Sender, Streaming<Command>), Status> {
    let (sender, reports) = mpsc::channel(4);
    for said in said {
        sender.send(Report::from(said)).await.unwrap();
    }
    let mut request = tonic::Request::new(ReceiverStream::new(reports));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Report, Command>::default();
    let answer = client.streaming(request, PathAndQuery::from_static(wire::METHOD), codec).await?;
    Ok((sender, answer.into_inner()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_answers_for_another_node() {
    let (place, serve) = plane();
    let token = token(&place, "shop", "cart", "1h");
    let claims = |namespace: &str, account: &str| {
        let metadata = [("NAMESPACE", namespace), ("SERVICE_ACCOUNT", account)];
        vec![Said::Node(Box::new(node("cart-1", namespace, &metadata)))]
    };
    let end = Said::End(wire::End { id: 0, error: String::new() });
    let rows = [
        ("another namespace", Some(token.as_str()), claims("bank", "cart"), Code::PermissionDenied),
        ("another account", Some(token.as_str()), claims("shop", "admin"), Code::PermissionDenied),
        ("no credential", None, claims("shop", "cart"), Code::Unauthenticated),
        ("no token", Some("a.b.c"), claims("shop", "cart"), Code::Unauthenticated),
        ("nobody", Some(token.as_str()), vec![end], Code::InvalidArgument),
        (
            "twice",
            Some(token.as_str()),
            [claims("shop", "cart"), claims("shop", "cart")].concat(),
            Code::InvalidArgument,
        ),
    ];
    for (what, token, said, expected) in rows {
        let ended = match open(connected(&place, &serve).await, token, said).await {
            Ok((_sender, mut commands)) => commands.message().await.expect_err(what),
            Err(status) => status,
        };
        assert_eq!(ended.code(), expected, "{what}: {ended}");
    }
    let (code, text) = serve.get("/proxies/cart-1/stats");
    assert_eq!(code, 404, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_reaches_the_node_that_proved_who_it_is() {
    let (place, serve) = plane();
    let token = token(&place, "shop", "cart", "1h");
    let metadata = [("NAMESPACE", "shop"), ("SERVICE_ACCOUNT", "cart")];
    let said = vec![Said::Node(Box::new(node("cart-1", "shop", &metadata)))];
    let (sender, mut commands) = open(connected(&place, &serve).await, Some(&token), said).await.unwrap();
    let answering = tokio::spawn(async move {
        let command = commands.message().await.unwrap().and_then(|command| command.told);
        let Some(wire::Told::Ask(wire::Ask { id, method, path_and_query })) = command else { panic!("{command:?}") };
        let data = format!("{method} {path_and_query}").into();
        let head = wire::Head { id, status: 201, content_type: "text/plain".to_owned() };
        for said in
            [Said::Head(head), Said::Chunk(wire::Chunk { id, data }), Said::End(wire::End { id, error: String::new() })]
        {
            sender.send(Report::from(said)).await.unwrap();
        }
        (sender, commands)
    });
    let deadline = Instant::now() + SOON;
    // Until the control plane has read whose stream it is.
    let (code, text) = loop {
        let answer = serve.get("/proxies/cart-1.shop/stats?filter=x");
        if answer.0 != 404 {
            break answer;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // The client of these tests shows the chunks of HTTP/1.1 as they are.
    assert_eq!((code, text.contains("\nGET /stats?filter=x\r")), (201, true), "{text}");
    drop(answering.await.unwrap());
}
