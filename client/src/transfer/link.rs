//! What a transfer needs of a connection: two ways to open a stream, and to hear of its end.

use std::future::Future;

use p2p_net::{RecvStream, SendStream};

/// A connection to one peer. Implemented by [`p2p_net::Connection`]; tests implement it over plain QUIC.
pub trait Link: Send + Sync {
    /// Opens a bidirectional stream, or says why not.
    fn open(&self) -> impl Future<Output = Result<(SendStream, RecvStream), String>> + Send;

    /// Opens a unidirectional stream, or says why not.
    fn open_uni(&self) -> impl Future<Output = Result<SendStream, String>> + Send;

    /// Waits for the end of the connection and says why it ended. Cancel safe.
    fn closed(&self) -> impl Future<Output = String> + Send;
}

impl Link for p2p_net::Connection {
    async fn open(&self) -> Result<(SendStream, RecvStream), String> {
        Self::open(self).await.map_err(|error| error.to_string())
    }

    async fn open_uni(&self) -> Result<SendStream, String> {
        Self::open_uni(self)
            .await
            .map_err(|error| error.to_string())
    }

    async fn closed(&self) -> String {
        Self::closed(self).await.to_string()
    }
}
