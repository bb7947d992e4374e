use crate::List;
use bakeoff_lambda::admin::answer;
use bakeoff_testkit::event::{Event, Service};
use serde_json::{Value, json};

#[tokio::test]
async fn an_admin_reads_who_did_what() {
    let service = Service::start().await;
    service.enqueue_run().await;
    service.cancel_run().await;
    let page = |query: &str| Event::sample("audit-list").query(query);
    let all = service.send(answer::<List>, &page("")).await.expect(200);
    let actions: Vec<&Value> =
        all["entries"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["run.cancel", "run.enqueue"]);
    let first = service.send(answer::<List>, &page("limit=1")).await.expect(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let last = service.send(answer::<List>, &page(&format!("limit=1&cursor={cursor}"))).await.expect(200);
    assert_eq!((&last["entries"][0]["action"], &last["next_cursor"]), (&json!("run.enqueue"), &Value::Null));
    let of_run = service.send(answer::<List>, &page("subject=x&action=run.cancel")).await.expect(200);
    assert_eq!(of_run["entries"], json!([]));
    let invoked = service.invoke::<List>(&json!({ "list": { "action": "run.cancel" } })).await.unwrap();
    assert_eq!(invoked["entries"].as_array().unwrap().len(), 1);

    for (query, pointers) in [
        ("limit=0", ["/limit"].as_slice()),
        ("cursor=x", &["/cursor"]),
        ("subjekt=x", &["/subjekt"]),
        ("subject=a%00b", &["/subject"]),
        ("limit=1&limit=2", &["/limit"]),
    ] {
        let answer = service.send(answer::<List>, &page(query)).await;
        assert_eq!(answer.pointers(), pointers, "{query}");
    }
    service.send(answer::<List>, &page("").without_iam()).await.problem(403, "not_an_admin");
}
