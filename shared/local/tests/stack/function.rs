//! A Lambda function for the gateway's tests. The request's path determines its behaviour. Uses only the
//! standard library.

use std::io::{Read, Write};
use std::net::TcpStream;

/// Sends one request to the Runtime API and returns head and body of the response.
fn call(method: &str, path: &str, body: &str) -> (String, String) {
    let api = std::env::var("AWS_LAMBDA_RUNTIME_API").expect("the gateway sets AWS_LAMBDA_RUNTIME_API");
    let mut stream = TcpStream::connect(&api).expect("the Runtime API listens");
    let length = body.len();
    let request = format!(
        "{method} /2018-06-01/runtime/{path} HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("receive");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value).expect("the header")
}

fn main() {
    loop {
        let (head, event) = call("GET", "invocation/next", "");
        let id = header(&head, "lambda-runtime-aws-request-id");
        assert!(header(&head, "lambda-runtime-deadline-ms").parse::<u64>().is_ok());
        if event.contains("\"rawPath\":\"/crash\"") {
            std::process::exit(3);
        }
        if event.contains("\"rawPath\":\"/hang\"") {
            loop {
                std::thread::park();
            }
        }
        if event.contains("\"rawPath\":\"/fail\"") {
            call("POST", &format!("invocation/{id}/error"), r#"{"errorMessage": "it failed"}"#);
            continue;
        }
        // A result without a status code becomes a 200 with this JSON.
        let pid = std::process::id();
        let answer = format!(r#"{{"pid": {pid}, "event": {event}}}"#);
        call("POST", &format!("invocation/{id}/response"), &answer);
    }
}
