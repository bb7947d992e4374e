//! A relay between the functions and Postgres that can lose a reply.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::error::{ErrorContext, Result};

/// Relays connections to Postgres until it is dropped.
pub(super) struct Proxy {
    /// Where it listens.
    pub(super) address: SocketAddr,
    armed: Arc<AtomicUsize>,
    _relays: JoinSet<()>,
}

impl Proxy {
    pub(super) async fn to(postgres: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("open the relay's port")?;
        let address = listener.local_addr().context("open the relay's port")?;
        let armed = Arc::new(AtomicUsize::new(0));
        let mut relays = JoinSet::new();
        relays.spawn(accept(listener, postgres, Arc::clone(&armed)));
        Ok(Self { address, armed, _relays: relays })
    }

    /// Loses the next reply, on whichever connection it comes. The server flushes a reply when the statement's
    /// transaction is over, so what is lost is nearly always the word of a commit.
    pub(super) fn cut_next_reply(&self) {
        self.armed.fetch_add(1, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, postgres: SocketAddr, armed: Arc<AtomicUsize>) {
    let mut relays = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let armed = Arc::clone(&armed);
        relays.spawn(async move {
            // ErrorContext Postgres is down the client sees its connection close, as it would without a relay.
            let Ok(server) = TcpStream::connect(postgres).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (mut from_client, to_client) = client.into_split();
            let (from_server, mut to_server) = server.into_split();
            tokio::select! {
                _ = copy(&mut from_client, &mut to_server) => {}
                () = replies(from_server, to_client, &armed) => {}
            }
        });
        while relays.try_join_next().is_some() {}
    }
}

/// Passes replies on until one is to be lost; then both connections close.
async fn replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, armed: &AtomicUsize) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let disarm = |count: usize| count.checked_sub(1);
        if armed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, disarm).is_ok() {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
