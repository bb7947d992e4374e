//! CloudFormation custom resource protocol: the request, and the response, a JSON document that the function
//! PUTs to a presigned URL.

use bakeoff_lambda::https::send;
use hyper::body::Bytes;
use lambda_runtime::Error;
use serde::Deserialize;
use serde_json::{Value, json};

/// Maximum characters of a reason. CloudFormation rejects a response of more than 4 kB.
const REASON_MAX: usize = 1000;

/// A request to create, update or delete the custom resource.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Request {
    request_type: String,
    #[serde(rename = "ResponseURL")]
    response_url: String,
    stack_id: String,
    request_id: String,
    logical_resource_id: String,
    physical_resource_id: Option<String>,
}

/// The action for a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// On creation: the database is empty, or restored from a snapshot.
    Migrate,
    /// On an update: an empty database cannot be the one that the stack had before.
    MigrateExisting,
    Nothing,
}

impl Request {
    /// Returns the action for the request.
    ///
    /// A rollback sends `Update` too, to the earlier version of this function, which knows no pending
    /// migration.
    pub(crate) fn action(&self) -> Action {
        match self.request_type.as_str() {
            "Delete" => Action::Nothing,
            "Update" => Action::MigrateExisting,
            _ => Action::Migrate,
        }
    }

    /// Reports the invocation's result to the stack.
    pub(crate) async fn report(&self, outcome: &Result<Value, Error>) -> Result<(), Error> {
        put(&self.response_url, self.document(outcome).to_string()).await
    }

    fn document(&self, outcome: &Result<Value, Error>) -> Value {
        let (status, reason) = match outcome {
            Ok(_) => ("SUCCESS", "migrated".to_owned()),
            Err(error) => ("FAILED", error.to_string().chars().take(REASON_MAX).collect()),
        };
        json!({
            "Status": status,
            "Reason": reason,
            // Constant, because a new id makes CloudFormation delete the resource under the old one.
            "PhysicalResourceId": self.physical_resource_id.as_deref().unwrap_or("migration"),
            "StackId": self.stack_id,
            "RequestId": self.request_id,
            "LogicalResourceId": self.logical_resource_id,
        })
    }
}

async fn put(url: &str, body: String) -> Result<(), Error> {
    // The URL is presigned for an empty content type; any other would invalidate the signature.
    let request = hyper::Request::put(url).header("content-type", "").body(Bytes::from(body))?;
    let response = send(request).await?;
    let status = response.status();
    if !status.is_success() {
        let body = String::from_utf8_lossy(response.body()).into_owned();
        return Err(format!("the response to CloudFormation was rejected with {status}: {body}").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn sample() -> Request {
        serde_json::from_str(include_str!("../../../events/migrate.json")).unwrap()
    }

    #[test]
    fn an_update_requires_an_existing_database_and_a_deletion_does_nothing() {
        let mut request = sample();
        assert_eq!(request.action(), Action::Migrate);
        request.request_type = "Update".into();
        assert_eq!(request.action(), Action::MigrateExisting);
        request.request_type = "Delete".into();
        assert_eq!(request.action(), Action::Nothing);
    }

    #[tokio::test]
    async fn a_failure_is_reported_to_the_stack_with_its_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut request = sample();
        request.response_url = format!("http://{}/answer?X-Amz-Signature=x", listener.local_addr().unwrap());
        let stack = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            let mut buffer = [0; 4096];
            while !received.ends_with(b"}") {
                let read = stream.read(&mut buffer).await.unwrap();
                received.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            String::from_utf8(received).unwrap()
        });
        request.report(&Err("relation \"x\" exists".into())).await.unwrap();
        let received = stack.await.unwrap();
        let (head, body) = received.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("PUT /answer?X-Amz-Signature=x HTTP/1.1\r\n"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["Status"], "FAILED");
        assert_eq!(body["Reason"], "relation \"x\" exists");
        assert_eq!(body["LogicalResourceId"], "Migration");
        assert_eq!(body["PhysicalResourceId"], "migration");
    }
}
