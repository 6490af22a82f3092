//! Table of open connections: their state, limits per address, and eviction of idle ones.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::telemetry::{ConnectionEnd, ConnectionMetrics};

/// State of a connection, in the order of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Activity {
    /// No complete request head since it was opened or since the last response.
    Idle,
    /// Receiving a request body.
    Receiving,
    /// Processing a request or sending its response.
    Answering,
}

/// Reasons to refuse a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionRefusal {
    /// The address is at its limit, and all of its connections are answering.
    Address,
    /// The server is at its limit, and all connections are answering.
    Server,
}

/// All connections of a listener.
pub(crate) struct ConnectionTable {
    table: Mutex<Table>,
    /// Notified when a connection ends or becomes evictable.
    changed: Notify,
    metrics: Arc<ConnectionMetrics>,
}

struct Table {
    max: usize,
    max_per_network: usize,
    next: u64,
    open: HashMap<u64, Entry>,
    per_network: HashMap<IpAddr, usize>,
}

struct Entry {
    network: IpAddr,
    activity: Activity,
    since: Instant,
    close: Arc<Notify>,
}

impl Table {
    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.open.remove(&id)?;
        if let Some(count) = self.per_network.get_mut(&entry.network) {
            *count -= 1;
            if *count == 0 {
                self.per_network.remove(&entry.network);
            }
        }
        Some(entry)
    }

    /// Closes the connection that has been idle longest or, if none is idle, the one that has been
    /// receiving longest.
    fn evict(&mut self, predicate: impl Fn(&Entry) -> bool) -> bool {
        let can_go = self
            .open
            .iter()
            .filter(|(_, entry)| entry.activity < Activity::Answering && predicate(entry));
        let oldest = can_go
            .min_by_key(|(id, entry)| (entry.activity, entry.since, **id))
            .map(|(id, _)| *id);
        let evicted = oldest.and_then(|id| self.remove(id));
        if let Some(entry) = &evicted {
            entry.close.notify_one();
        }
        evicted.is_some()
    }
}

impl ConnectionTable {
    /// Creates a table for at most `max` connections, of which `max_per_network` from one address.
    pub(crate) fn new(
        max: usize,
        max_per_network: usize,
        metrics: Arc<ConnectionMetrics>,
    ) -> Arc<Self> {
        let table = Table {
            max,
            max_per_network,
            next: 0,
            open: HashMap::new(),
            per_network: HashMap::new(),
        };
        Arc::new(Self {
            table: Mutex::new(table),
            changed: Notify::new(),
            metrics,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection from an address, evicting another one if the limit is reached.
    ///
    /// # Errors
    /// When no connection can be evicted.
    pub(crate) fn open(
        self: &Arc<Self>,
        address: IpAddr,
    ) -> Result<Arc<Connection>, ConnectionRefusal> {
        let network = network(address);
        let mut table = self.lock();
        let of_network = table.per_network.get(&network).copied().unwrap_or(0);
        if of_network >= table.max_per_network {
            if !table.evict(|entry| entry.network == network) {
                self.metrics.count_end(ConnectionEnd::Address);
                return Err(ConnectionRefusal::Address);
            }
            self.metrics.count_end(ConnectionEnd::Evicted);
        } else if table.open.len() >= table.max {
            if !table.evict(|_| true) {
                return Err(ConnectionRefusal::Server);
            }
            self.metrics.count_end(ConnectionEnd::Evicted);
        }
        let (id, close) = (table.next, Arc::new(Notify::new()));
        table.next += 1;
        *table.per_network.entry(network).or_default() += 1;
        table.open.insert(
            id,
            Entry {
                network,
                activity: Activity::Idle,
                since: Instant::now(),
                close: Arc::clone(&close),
            },
        );
        drop(table);
        self.metrics.open.inc();
        Ok(Arc::new(Connection {
            id,
            table: Arc::clone(self),
            close,
            activity: AtomicU8::new(Activity::Idle as u8),
            answered: AtomicBool::new(true),
            interim: AtomicBool::new(false),
            modern: AtomicBool::new(false),
            wants_body: AtomicBool::new(false),
            write_blocked: AtomicBool::new(false),
            half_closed: watch::Sender::new(false),
        }))
    }

    /// Waits until a refused connection may find room.
    pub(crate) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }

    /// Returns the connection metrics.
    pub(crate) fn metrics(&self) -> &ConnectionMetrics {
        &self.metrics
    }
}

/// An open connection, shared by its socket, requests and responses. It leaves the table when the
/// last of them is dropped.
pub(crate) struct Connection {
    id: u64,
    table: Arc<ConnectionTable>,
    close: Arc<Notify>,
    /// Copy of the table's state, readable without its lock.
    activity: AtomicU8,
    /// `true` once the last response has been produced.
    answered: AtomicBool,
    /// `true` if an interim response may be sent: the client supports it, and the response has not
    /// started.
    interim: AtomicBool,
    /// `true` for HTTP/1.1: a `100 Continue` can then probe whether a half-closed client is still
    /// there.
    modern: AtomicBool,
    wants_body: AtomicBool,
    write_blocked: AtomicBool,
    /// `true` once the client has closed its side or the whole connection; the two differ only when
    /// something is sent.
    half_closed: watch::Sender<bool>,
}

impl Connection {
    /// Waits until the connection is evicted.
    pub(crate) async fn wait_for_eviction(&self) {
        self.close.notified().await;
    }

    /// Starts an exchange once the request head has arrived; `modern` means HTTP/1.1. Returns
    /// `false` if the connection was closed.
    pub(crate) fn begin(&self, has_body: bool, modern: bool) -> bool {
        self.answered.store(false, Relaxed);
        self.modern.store(modern, Relaxed);
        self.wants_body.store(false, Relaxed);
        self.interim.store(modern, Relaxed);
        self.set_activity(if has_body {
            Activity::Receiving
        } else {
            Activity::Answering
        })
    }

    /// Records that the request body has arrived.
    pub(crate) fn set_body_received(&self) {
        if self.has_activity(Activity::Receiving) {
            self.set_activity(Activity::Answering);
        }
    }

    /// Records that the response has been produced, though not all of it may be written yet.
    pub(crate) fn set_answered(&self) {
        self.answered.store(true, Relaxed);
    }

    /// Makes the connection evictable if its exchange is over.
    pub(crate) fn make_evictable(&self) {
        if !self.has_activity(Activity::Idle)
            && self.answered.load(Relaxed)
            && !self.write_blocked.load(Relaxed)
        {
            self.set_activity(Activity::Idle);
            self.table.changed.notify_one();
        }
    }

    fn has_activity(&self, activity: Activity) -> bool {
        self.activity.load(Relaxed) == activity as u8
    }

    fn set_activity(&self, activity: Activity) -> bool {
        let mut table = self.table.lock();
        let Some(entry) = table.open.get_mut(&self.id) else {
            return false;
        };
        (entry.activity, entry.since) = (activity, Instant::now());
        self.activity.store(activity as u8, Relaxed);
        true
    }

    /// Returns `true` during an HTTP/1.1 exchange, in which a half-closed client may still be
    /// there.
    pub(crate) fn is_exchanging(&self) -> bool {
        self.modern.load(Relaxed) && !self.answered.load(Relaxed)
    }

    /// Returns `true` while a fully received request is answered.
    pub(crate) fn is_answering(&self) -> bool {
        self.has_activity(Activity::Answering)
    }

    /// Sets whether the handler waits for more of the request body.
    pub(crate) fn set_wants_body(&self, wants: bool) {
        self.wants_body.store(wants, Relaxed);
    }

    /// Returns `true` while the handler waits for more of the request body.
    pub(crate) fn wants_body(&self) -> bool {
        self.wants_body.load(Relaxed)
    }

    /// Returns `true`, once per exchange, if an interim response may be sent.
    pub(crate) fn take_interim(&self) -> bool {
        self.interim.swap(false, Relaxed) && !self.write_blocked.load(Relaxed)
    }

    /// Sets whether the socket's send buffer is full.
    pub(crate) fn set_write_blocked(&self, blocked: bool) {
        self.write_blocked.store(blocked, Relaxed);
    }

    /// Records that the client will send no more data.
    pub(crate) fn set_half_closed(&self) {
        self.half_closed.send_replace(true);
    }

    /// Returns a handle with which a response can watch its client.
    pub(crate) fn client_link(&self) -> ClientLink {
        ClientLink(self.half_closed.subscribe())
    }

    /// Returns the connection metrics.
    pub(crate) fn metrics(&self) -> &ConnectionMetrics {
        self.table.metrics()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.table.lock().remove(self.id);
        self.table.metrics.open.dec();
        self.table.changed.notify_one();
    }
}

/// Handle with which a response can watch its client; stored in the request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct ClientLink(watch::Receiver<bool>);

impl ClientLink {
    /// Waits until the client has closed its side or the whole connection; the two differ only when
    /// something is sent.
    pub(crate) async fn wait_half_closed(mut self) {
        if self.0.wait_for(|closed| *closed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Returns the network that counts as one client: an IPv4 address, or an IPv6 /64, which one
/// subscriber usually has.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn table(max: usize, per_network: usize) -> Arc<ConnectionTable> {
        let metrics = ConnectionMetrics::new(&prometheus::Registry::new()).unwrap();
        ConnectionTable::new(max, per_network, Arc::new(metrics))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_evicted(connection: &Connection) -> bool {
        connection.wait_for_eviction().now_or_never().is_some()
    }

    #[test]
    fn eviction_prefers_idle_then_receiving_and_spares_answering_connections() {
        let table = table(3, 3);
        let open = |host: &str| table.open(ip(host));
        let [first, second, third] =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|host| open(host).unwrap());
        assert!(first.begin(true, true) && third.begin(false, true));
        let fourth = open("10.0.0.4").unwrap();
        assert!(is_evicted(&second) && !is_evicted(&first) && !is_evicted(&third));
        assert!(
            !second.begin(false, true),
            "a request of a connection that was closed"
        );
        assert!(fourth.begin(false, true));
        let fifth = open("10.0.0.5").unwrap();
        assert!(is_evicted(&first));
        fifth.begin(true, true);
        fifth.set_body_received();
        assert_eq!(open("10.0.0.6").err(), Some(ConnectionRefusal::Server));
        // The response is complete but not fully written.
        fifth.set_answered();
        fifth.set_write_blocked(true);
        fifth.make_evictable();
        assert_eq!(open("10.0.0.6").err(), Some(ConnectionRefusal::Server));
        fifth.set_write_blocked(false);
        fifth.make_evictable();
        assert!(open("10.0.0.6").is_ok() && is_evicted(&fifth));
    }

    #[test]
    fn an_address_cannot_exceed_its_connection_limit() {
        let table = table(4, 2);
        let open = |host: &str| table.open(ip(host));
        let other = open("10.0.0.2").unwrap();
        let held = [open("10.0.0.1").unwrap(), open("::ffff:10.0.0.1").unwrap()];
        let third = open("10.0.0.1").unwrap();
        assert!(is_evicted(&held[0]) && !is_evicted(&held[1]) && !is_evicted(&other));
        assert!(held[1].begin(false, true) && third.begin(false, true));
        assert_eq!(open("10.0.0.1").err(), Some(ConnectionRefusal::Address));
        assert!(open("10.0.0.3").is_ok());
        drop((held, third));
        assert!(open("10.0.0.1").is_ok());
    }

    #[test]
    fn ipv6_clients_are_counted_by_network() {
        assert_eq!(
            network(ip("2001:db8:1:2:3::4")),
            network(ip("2001:db8:1:2:ffff::"))
        );
        assert_ne!(
            network(ip("2001:db8:1:2::1")),
            network(ip("2001:db8:1:3::1"))
        );
        assert_eq!(network(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
    }
}
