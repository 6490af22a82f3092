//! Store on SQLite or PostgreSQL, in SQL that both understand.

use std::{
    borrow::Cow,
    future::Future,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::FutureExt;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Any, AnyConnection, AnyPool, Connection, Executor, Row as _,
    any::{AnyConnectOptions, AnyPoolOptions, AnyRow, install_default_drivers},
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    pool::PoolConnection,
    query::Query,
};

use super::{
    Idempotency, InsertOutcome, OwnerBytes, Owners, RecordPage, RemovalCounts, RemovalTarget,
    Store, StoreEntry, StoreError, StoreFuture, StoreStats,
    sql_queue::{count_judgment, enqueue, record_digest, take_turn},
    sql_remove::remove,
};
use crate::{
    feedback::record::{Feedback, FeedbackSource, ImageHash, Receipt},
    util::private_files,
};

/// Schema migrations: version, name, SQL. A released version never changes.
const MIGRATIONS: [(i64, &str, &str); 4] = [
    (1, "records", include_str!("migrations/0001_records.sql")),
    (2, "queue", include_str!("migrations/0002_queue.sql")),
    (3, "repeats", include_str!("migrations/0003_repeats.sql")),
    (4, "owners", include_str!("migrations/0004_owners.sql")),
];

/// Size of the connection pool.
const CONNECTIONS: u32 = 8;

/// Largest number of receipts that one [`RemovalTarget::OldestReceipts`] removes.
pub const OLDEST: u32 = 256;

/// Longest wait of SQLite for a free connection, and for another process's write lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for a connection to PostgreSQL.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest operation of PostgreSQL. A server that hangs would otherwise hold requests as long.
const OPERATION: Duration = Duration::from_secs(30);
/// The same after an operation that could not reach PostgreSQL, until one succeeds: requests would
/// pile up, and take the places of others.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// Store in a database.
pub struct SqlStore {
    pool: AnyPool,
    is_sqlite: bool,
    damage: OnceLock<String>,
    /// `true` if PostgreSQL could not be reached last.
    unreachable: AtomicBool,
}

impl SqlStore {
    /// Opens `sqlite:PATH`, created with its directories if missing, or `postgres://...`, and
    /// migrates its schema.
    ///
    /// # Errors
    /// When the database cannot be opened, or a later version of this program wrote its schema.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let fail = |error: sqlx::Error| StoreError::Unavailable(error.to_string());
        install_default_drivers();
        let sqlite = url
            .strip_prefix("sqlite:")
            .map(|path| PathBuf::from(path.trim_start_matches("//")));
        let pragmas = if sqlite.is_some() {
            DURABLE_SQLITE
        } else {
            DURABLE_POSTGRES
        };
        let options = match &sqlite {
            None => AnyConnectOptions::from_str(url).map_err(fail)?,
            Some(file) => open_sqlite(file)
                .await
                .map_err(|e| StoreError::Unavailable(format!("{}: {e}", file.display())))?,
        };
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(if sqlite.is_some() { PATIENCE } else { CONNECT })
            .after_connect(move |connection, _| {
                async move { connection.execute(pragmas).await.map(drop) }.boxed()
            });
        let pool = pool.connect_with(options).await.map_err(fail)?;
        let migrations = MIGRATIONS.iter().map(|&(version, description, sql)| {
            Migration::new(
                version,
                Cow::Borrowed(description),
                MigrationType::Simple,
                Cow::Borrowed(sql),
                false,
            )
        });
        let migrator = Migrator {
            migrations: migrations.collect(),
            ..Migrator::DEFAULT
        };
        let mut first = pool.acquire().await.map_err(fail)?;
        if sqlite.is_some() {
            first.execute(SHORT_LOG).await.map_err(fail)?;
        }
        migrator.run(&mut *first).await.map_err(|error| {
            StoreError::Unavailable(match error {
                MigrateError::VersionMissing(found) => format!(
                    "a later version of Candor migrated its schema: it has migration {found}, this \
                     version knows {}; start the later version, or restore a backup from before it",
                    MIGRATIONS.len()
                ),
                other => other.to_string(),
            })
        })?;
        if sqlite.is_some()
            && let Err(error) = overwrite_free_pages(&mut first).await
        {
            tracing::warn!(%error, "what was deleted before may still be in free pages of the \
                                    database; the next start overwrites them");
        }
        first.close().await.map_err(fail)?;
        Ok(Self {
            pool,
            is_sqlite: sqlite.is_some(),
            damage: OnceLock::new(),
            unreachable: AtomicBool::new(false),
        })
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Wraps an operation so that it notes damage of the database.
    pub(super) fn answer<'a, T: Send + 'a>(
        &'a self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        let note = |result: &Result<T, StoreError>| {
            if let Err(StoreError::Damaged(why)) = result
                && self.damage.set(why.clone()).is_ok()
            {
                tracing::error!(
                    why,
                    "the feedback store is damaged; repair the database or restore a backup, \
                     then restart"
                );
            }
        };
        self.bounded(work).inspect(note).boxed()
    }

    /// Bounds an operation of PostgreSQL in time.
    async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if self.is_sqlite {
            return work.await;
        }
        let longest = if self.unreachable.load(Relaxed) {
            UNREACHABLE
        } else {
            OPERATION
        };
        let result = tokio::time::timeout(longest, work)
            .await
            .unwrap_or_else(|_| {
                let seconds = longest.as_secs();
                Err(StoreError::Unavailable(format!(
                    "no answer for {seconds} s"
                )))
            });
        let unreachable = matches!(result, Err(StoreError::Unavailable(_)));
        if self.unreachable.swap(unreachable, Relaxed) && !unreachable {
            tracing::info!("the feedback store can be reached again");
        }
        result
    }

    /// Runs `work` in a transaction, committed if it succeeds.
    pub(super) async fn transaction<T, F>(
        &self,
        work: impl FnOnce(Transaction) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<(T, Transaction), StoreError>>,
    {
        let mut transaction = Transaction {
            connection: self.pool.acquire().await.map_err(failed)?,
            done: false,
        };
        transaction
            .connection
            .execute("BEGIN")
            .await
            .map_err(failed)?;
        let (result, mut transaction) = work(transaction).await?;
        transaction
            .connection
            .execute("COMMIT")
            .await
            .map_err(failed)?;
        transaction.done = true;
        Ok(result)
    }

    async fn body<T: DeserializeOwned>(
        &self,
        sql: &str,
        id: &str,
    ) -> Result<Option<T>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        body(&mut connection, sql, id).await
    }

    /// Returns the rows of `sql`, each a name and a count. If `owners` is a single one, it is
    /// parameter 1.
    pub(super) async fn counts(
        &self,
        sql: &str,
        owners: &Owners,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let rows = bind_owner(sqlx::query(sql), owners)
            .fetch_all(&self.pool)
            .await
            .map_err(failed)?;
        let count = |row: &AnyRow| Ok((row.try_get(0)?, row.try_get::<i64, _>(1)? as u64));
        rows.iter()
            .map(count)
            .collect::<Result<_, _>>()
            .map_err(failed)
    }
}

/// Creates the file, restricts its mode, and checks that it is a database: the connection pool
/// would retry hopeless errors for a while.
async fn open_sqlite(
    file: &Path,
) -> Result<AnyConnectOptions, Box<dyn std::error::Error + Send + Sync>> {
    if let Some(folder) = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        private_files::create_dir(folder)?;
    }
    private_files::create_file(file)?;
    // SQLite creates the other files with the mode of the first.
    for suffix in ["", "-wal", "-shm"] {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        let file = PathBuf::from(name);
        if file.is_dir() {
            continue;
        }
        match private_files::narrow(&file) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(file = %file.display(), "other users could read the file, and \
                    cannot any more")
            }
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "other users can read the file, and \
                    its mode cannot be changed")
            }
        }
    }
    // Characters with a meaning in URLs.
    let path = file
        .display()
        .to_string()
        .replace('%', "%25")
        .replace('?', "%3F");
    let options = AnyConnectOptions::from_str(&format!("sqlite:{path}?mode=rwc"))?;
    let mut connection = AnyConnection::connect_with(&options).await?;
    connection.execute(DURABLE_SQLITE).await?;
    connection.close().await?;
    Ok(options)
}

/// Overwrites free pages, where earlier versions left deleted data. Runs once for a database, as
/// `user_version` tells.
async fn overwrite_free_pages(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let version: i64 = sqlx::query("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if version < SCRUBBED {
        connection.execute("VACUUM").await?;
        connection
            .execute(&*format!("PRAGMA user_version = {SCRUBBED}"))
            .await?;
        connection.execute(CHECKPOINT).await?;
    }
    Ok(())
}

/// SQL condition that `column` is the single owner, given as this parameter; empty for all owners.
pub(super) fn owner_condition(owners: &Owners, column: &str, parameter: usize) -> String {
    owners
        .name()
        .map_or_else(String::new, |_| format!(" AND {column} = ${parameter}"))
}

/// Binds the parameter of [`owner_condition`], if it has one.
pub(super) fn bind_owner<'q>(query: SqlQuery<'q>, owners: &'q Owners) -> SqlQuery<'q> {
    match owners.name() {
        Some(owner) => query.bind(owner),
        None => query,
    }
}

/// Query of either database.
pub(super) type SqlQuery<'q> = Query<'q, Any, sqlx::any::AnyArguments<'q>>;

/// Connection in a transaction. Dropped before the commit, it closes the connection: after a commit
/// that failed on a full disk, sqlx and SQLite may disagree on the transaction's state, and later
/// commits on that connection would be lost.
pub(super) struct Transaction {
    pub(super) connection: PoolConnection<Any>,
    done: bool,
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.done {
            self.connection.close_on_drop();
        }
    }
}

/// Commits reach the disk, readers do not wait for writers, and deleted data is overwritten.
const DURABLE_SQLITE: &str = "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA \
                              synchronous = FULL; PRAGMA secure_delete = ON";
/// Keeps the write-ahead log short during migrations, for nearly full disks.
const SHORT_LOG: &str = "PRAGMA wal_autocheckpoint = 16";
/// Copies the write-ahead log into the database and empties it.
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";
/// `user_version` of a database whose free pages were overwritten.
const SCRUBBED: i64 = 1;
/// PostgreSQL's default; stricter settings are kept.
const DURABLE_POSTGRES: &str = "SELECT set_config('synchronous_commit', 'on', false) WHERE \
                                current_setting('synchronous_commit') = 'off'";

impl Store for SqlStore {
    fn insert<'a>(&'a self, rows: &'a [StoreEntry]) -> StoreFuture<'a, Vec<InsertOutcome>> {
        self.answer(self.transaction(async move |mut transaction| {
            let queued = |row: &StoreEntry| !matches!(row, StoreEntry::Receipt(_));
            if rows.iter().any(queued) {
                take_turn(&mut transaction.connection).await?;
            }
            let mut inserted = Vec::with_capacity(rows.len());
            for row in rows {
                inserted.push(insert(&mut transaction.connection, row).await?);
            }
            Ok((inserted, transaction))
        }))
    }

    fn feedback<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Feedback>> {
        self.answer(self.body("SELECT body FROM feedback WHERE id = $1", id))
    }

    fn find_request<'a>(&'a self, key: &'a Idempotency) -> StoreFuture<'a, Option<InsertOutcome>> {
        self.answer(async move {
            let row = select_request(key)
                .fetch_optional(&self.pool)
                .await
                .map_err(failed)?;
            row.map(|row| earlier_outcome(&row, key)).transpose()
        })
    }

    fn receipt<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Receipt>> {
        self.answer(self.body("SELECT body FROM receipts WHERE id = $1", id))
    }

    fn receipts(&self, limit: u32) -> StoreFuture<'_, Vec<Receipt>> {
        self.answer(async move {
            let sql =
                format!("SELECT body FROM receipts ORDER BY created DESC, id DESC LIMIT {limit}");
            let rows = sqlx::query(&sql)
                .fetch_all(&self.pool)
                .await
                .map_err(failed)?;
            rows.iter().map(read).collect()
        })
    }

    fn page<'a>(&'a self, page: &'a RecordPage) -> StoreFuture<'a, Vec<Feedback>> {
        self.answer(async move {
            let RecordPage {
                filter,
                after,
                limit,
                newest_first,
            } = page;
            let (compare, order) = if *newest_first {
                ("<", "DESC")
            } else {
                (">", "ASC")
            };
            let conditions = [
                ("owner =", filter.owners.name()),
                ("kind =", filter.kind.map(|k| k.name())),
                ("source =", filter.source.map(FeedbackSource::name)),
                ("user_name =", filter.user.as_deref()),
                ("annotator =", filter.annotator.as_deref()),
                ("completion_id =", filter.completion_id.as_deref()),
                (&format!("id {compare}"), after.as_deref()),
            ];
            let given: Vec<(&str, &str)> = conditions
                .into_iter()
                .filter_map(|(what, value)| Some((what, value?)))
                .collect();
            let conditions: String = given
                .iter()
                .enumerate()
                .map(|(i, (what, _))| format!(" AND {what} ${}", i + 1))
                .collect();
            let sql = format!(
                "SELECT body FROM feedback WHERE 1 = 1{conditions} ORDER BY id \
                               {order} LIMIT {limit}"
            );
            let query = given
                .iter()
                .fold(sqlx::query(&sql), |query, (_, value)| query.bind(*value));
            let rows = query.fetch_all(&self.pool).await.map_err(failed)?;
            rows.iter().map(read).collect()
        })
    }

    fn remove<'a>(&'a self, target: &'a RemovalTarget) -> StoreFuture<'a, RemovalCounts> {
        self.answer(self.transaction(async move |mut transaction| {
            take_turn(&mut transaction.connection).await?;
            Ok((
                remove(&mut transaction.connection, target).await?,
                transaction,
            ))
        }))
    }

    fn doomed(&self, limit: u32) -> StoreFuture<'_, Vec<ImageHash>> {
        self.answer(async move {
            let sql = format!("SELECT image FROM doomed_images LIMIT {limit}");
            let rows = sqlx::query(&sql)
                .fetch_all(&self.pool)
                .await
                .map_err(failed)?;
            let image = |row: &AnyRow| {
                row.try_get::<String, _>(0)
                    .map_err(failed)?
                    .parse()
                    .map_err(|e| StoreError::Failed(format!("{e}")))
            };
            rows.iter().map(image).collect()
        })
    }

    fn refers(&self, image: ImageHash) -> StoreFuture<'_, bool> {
        self.answer(async move {
            let sql = "SELECT 1 FROM feedback WHERE image = $1 UNION ALL SELECT 1 FROM receipts \
                       WHERE image = $1 LIMIT 1";
            let row = sqlx::query(sql)
                .bind(image.to_string())
                .fetch_optional(&self.pool)
                .await
                .map_err(failed)?;
            Ok(row.is_some())
        })
    }

    fn spare(&self, image: ImageHash) -> StoreFuture<'_, ()> {
        self.answer(async move {
            let query =
                sqlx::query("DELETE FROM doomed_images WHERE image = $1").bind(image.to_string());
            query.execute(&self.pool).await.map(drop).map_err(failed)
        })
    }

    fn stats<'a>(&'a self, owners: &'a Owners) -> StoreFuture<'a, StoreStats> {
        self.answer(async move {
            let condition = format!("WHERE 1 = 1{}", owner_condition(owners, "owner", 1));
            let feedback = self
                .counts(
                    &format!("SELECT kind, count(*) FROM feedback {condition} GROUP BY kind"),
                    owners,
                )
                .await?;
            let sources = self
                .counts(
                    &format!("SELECT source, count(*) FROM feedback {condition} GROUP BY source"),
                    owners,
                )
                .await?;
            let receipts = self
                .counts(
                    &format!("SELECT 'receipts', count(*) FROM receipts {condition}"),
                    owners,
                )
                .await?;
            Ok(StoreStats {
                feedback: feedback.into_iter().collect(),
                sources: sources.into_iter().collect(),
                receipts: receipts.first().map_or(0, |(_, n)| *n),
            })
        })
    }

    fn redate_receipts(&self, now: u64) -> StoreFuture<'_, ()> {
        self.answer(async move {
            let query =
                sqlx::query("UPDATE receipts SET created = $1 WHERE created > $1").bind(now as i64);
            query.execute(&self.pool).await.map(drop).map_err(failed)
        })
    }

    fn receipt_bytes(&self) -> StoreFuture<'_, Vec<OwnerBytes>> {
        self.answer(async move {
            let by_image = "SELECT owner, SUM(bytes) + MAX(image_bytes) AS bytes FROM receipts \
                            GROUP BY owner, image";
            let sql = format!(
                "SELECT owner, CAST(SUM(bytes) AS BIGINT) FROM ({by_image}) AS \
                               by_image GROUP BY owner"
            );
            let counts = self.counts(&sql, &Owners::All).await?;
            Ok(counts
                .into_iter()
                .map(|(owner, bytes)| OwnerBytes { owner, bytes })
                .collect())
        })
    }

    fn scrub(&self) -> StoreFuture<'_, ()> {
        self.answer(async move {
            if self.is_sqlite {
                self.pool.execute(CHECKPOINT).await.map_err(failed)?;
            }
            Ok(())
        })
    }

    fn damage(&self) -> Option<String> {
        self.damage.get().cloned()
    }
}

pub(super) async fn body<T: DeserializeOwned>(
    connection: &mut AnyConnection,
    sql: &str,
    id: &str,
) -> Result<Option<T>, StoreError> {
    let row = sqlx::query(sql)
        .bind(id)
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    row.map(|row| read(&row)).transpose()
}

async fn insert(
    connection: &mut AnyConnection,
    row: &StoreEntry,
) -> Result<InsertOutcome, StoreError> {
    let (record, key) = match row {
        StoreEntry::Receipt(receipt) => {
            let sql = "INSERT INTO receipts (id, created, image, user_name, body, owner, bytes, \
                       image_bytes) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
            let body = json(receipt)?;
            let bytes = body.len() as i64;
            let query = sqlx::query(sql)
                .bind(&receipt.id)
                .bind(receipt.created as i64)
                .bind(receipt.image.to_string());
            let query = query
                .bind(&receipt.user)
                .bind(body)
                .bind(&receipt.owner)
                .bind(bytes)
                .bind(receipt.image_bytes as i64);
            query.execute(&mut *connection).await.map_err(failed)?;
            return Ok(InsertOutcome::New);
        }
        StoreEntry::Queue(entry) => {
            return enqueue(connection, entry)
                .await
                .map(|()| InsertOutcome::New);
        }
        StoreEntry::Feedback(record, key) => (record, key),
    };
    let sql = "INSERT INTO feedback (id, created, completion_id, image, user_name, annotator, \
               kind, source, idempotency_key, idempotency_digest, body, \
               overlapping, unassisted, digest, owner, annotator_owner) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON \
               CONFLICT DO NOTHING";
    let query = sqlx::query(sql)
        .bind(&record.id)
        .bind(record.created as i64)
        .bind(&record.completion_id)
        .bind(record.image.to_string());
    let query = query
        .bind(&record.user)
        .bind(&record.annotator)
        .bind(record.kind.name())
        .bind(record.source.name());
    let query = query
        .bind(key.as_ref().map(|k| &k.key))
        .bind(key.as_ref().map(|k| &k.digest))
        .bind(json(record)?);
    let (overlapping, unassisted) = record
        .queued
        .map_or((false, false), |queued| (queued.overlap, record.unassisted));
    let query = query
        .bind(i64::from(overlapping))
        .bind(i64::from(unassisted))
        .bind(record_digest(record));
    let query = query.bind(&record.owner).bind(&record.annotator_owner);
    let done = query.execute(&mut *connection).await.map_err(failed)?;
    if done.rows_affected() > 0 {
        count_judgment(connection, record).await?;
    }
    match key {
        _ if done.rows_affected() > 0 => Ok(InsertOutcome::New),
        Some(key) => match select_request(key)
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?
        {
            Some(row) => earlier_outcome(&row, key),
            None => Ok(InsertOutcome::Conflict),
        },
        None => Ok(InsertOutcome::Conflict),
    }
}

fn select_request(key: &Idempotency) -> SqlQuery<'_> {
    sqlx::query("SELECT body, idempotency_digest FROM feedback WHERE idempotency_key = $1")
        .bind(&key.key)
}

fn earlier_outcome(row: &AnyRow, key: &Idempotency) -> Result<InsertOutcome, StoreError> {
    let same = row.try_get::<String, _>(1).map_err(failed)? == key.digest;
    if same {
        Ok(InsertOutcome::Before(Box::new(read(row)?)))
    } else {
        Ok(InsertOutcome::Conflict)
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Failed(e.to_string()))
}

/// Parses the JSON in the first column.
pub(super) fn read<T: DeserializeOwned>(row: &AnyRow) -> Result<T, StoreError> {
    let body: &str = row.try_get(0).map_err(failed)?;
    serde_json::from_str(body).map_err(|e| StoreError::Failed(format!("a row cannot be read: {e}")))
}

/// Failures of this process's stores.
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// Returns how many operations of this process's stores have failed.
pub fn failures() -> u64 {
    FAILURES.load(Relaxed)
}

pub(super) fn failed(error: sqlx::Error) -> StoreError {
    FAILURES.fetch_add(1, Relaxed);
    let code = error
        .as_database_error()
        .and_then(|e| e.code())
        .unwrap_or_default();
    match (&*code, &error) {
        // SQLITE_CORRUPT and its kinds, SQLITE_NOTADB, SQLITE_IOERR_SHORT_READ; PostgreSQL's
        // data_corrupted and index_corrupted.
        ("11" | "267" | "523" | "779" | "26" | "522" | "XX001" | "XX002", _) => {
            StoreError::Damaged(error.to_string())
        }
        // SQLITE_FULL, SQLITE_IOERR_WRITE (a quota), SQLITE_IOERR_SHMSIZE; PostgreSQL's disk_full.
        ("13" | "778" | "4874" | "53100", _) => StoreError::Full,
        (
            _,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed,
        ) => StoreError::Unavailable(error.to_string()),
        // PostgreSQL: connection exceptions, and a server that starts or stops. SQLite: another
        // process holds the write lock for too long.
        (code, _)
            if code.starts_with("08")
                || code.starts_with("57P")
                || matches!(code, "5" | "517" | "53300") =>
        {
            StoreError::Unavailable(error.to_string())
        }
        _ => StoreError::from_error(&error),
    }
}
