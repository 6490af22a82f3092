//! Cache of encoded images, keyed by file content.

use std::{future::Future, ops::Range, sync::Arc, time::Instant};

use candle_core::Tensor;
use moka::future::Cache;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

use super::fair::{FairTurn, Share, Turns};
use crate::{
    reward::evidence::{Evidence, ImageEvidence},
    util::digest::HashedFile,
    vlm::{
        VisionLanguageModel,
        processor::ImageOptions,
        prompt::{ImageFeatures, ImageId},
    },
};

/// Failure to encode an image.
#[derive(Debug, thiserror::Error)]
pub enum EncodingError<E> {
    /// The image could not be decoded.
    #[error(transparent)]
    Pixels(E),
    /// The model failed.
    #[error("the image encoder failed: {0}")]
    Model(String),
}

/// An encoded image with its evidence.
#[derive(Debug, Clone)]
pub struct EncodedImage {
    /// Features, for [`super::Request::images`].
    pub image: ImageFeatures,
    /// Evidence of what the image shows, if the model provides it.
    pub evidence: Option<ImageEvidence>,
    /// `true` if the encoding was cached or in progress for another request.
    pub hit: bool,
    /// Time in which the model encoded the image, evidence included.
    pub encoded: Range<Instant>,
}

/// Scope within which requests share cached encodings, so that response times reveal nothing about
/// another tenant's images.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CacheScope {
    /// Requests with the same salt, chosen by the client.
    Salt(Arc<str>),
    /// Requests without a salt of the same owner; the empty name stands for all clients of a server
    /// without keys.
    Owner(Arc<str>),
}

impl CacheScope {
    /// Returns the cache key of a file and how it is processed. Salts and owners have separate key
    /// spaces.
    fn key(&self, hash: &[u8; 32], options: &ImageOptions) -> ImageId {
        let (kind, name) = match self {
            Self::Salt(salt) => (1u8, salt),
            Self::Owner(owner) => (0u8, owner),
        };
        let splitting = options.do_image_splitting.map_or(2, u8::from);
        let digest = Sha256::new()
            .chain_update([kind, splitting])
            .chain_update(options.longest_edge.unwrap_or(0).to_le_bytes())
            .chain_update(hash)
            .chain_update(name.as_bytes())
            .finalize();
        ImageId(digest.into())
    }
}

/// Memory budget shared by all image decodes; waiters are served in order.
#[derive(Debug, Clone)]
pub struct DecodeMemory {
    units: Arc<Semaphore>,
    total: u32,
}

impl DecodeMemory {
    /// Granularity of the budget in bytes.
    const UNIT: u64 = 4096;

    /// Creates a budget of `bytes`.
    pub fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / Self::UNIT).unwrap_or(u32::MAX).max(1);
        Self {
            units: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// Waits for `bytes` of memory, capped at the whole budget; dropping the permit releases it.
    /// Reject larger images first.
    pub async fn acquire(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(Self::UNIT))
            .unwrap_or(u32::MAX)
            .min(self.total);
        // The semaphore is never closed.
        Arc::clone(&self.units).acquire_many_owned(units).await.ok()
    }
}

/// Encodes images on blocking threads, a few at a time by fair share, and caches the encodings
/// within their [`CacheScope`].
///
/// The number of waiters is not bounded here: hold a [`super::Reservation`] first.
#[derive(Clone)]
pub struct ImageCache {
    vlm: Arc<dyn VisionLanguageModel>,
    evidence: Option<Arc<Evidence>>,
    cache: Cache<ImageId, Encoding>,
    turns: Turns,
}

/// Cached value of an image.
#[derive(Clone)]
struct Encoding {
    features: Tensor,
    evidence: Option<ImageEvidence>,
    encoded: Range<Instant>,
}

impl Encoding {
    /// Returns the size in bytes.
    fn bytes(&self) -> u32 {
        let image = self.features.elem_count() * self.features.dtype().size_in_bytes();
        let numbers = self
            .evidence
            .as_ref()
            .map_or(0, |evidence| size_of_val(&*evidence.logits));
        u32::try_from(image + numbers).unwrap_or(u32::MAX)
    }
}

impl ImageCache {
    /// Creates a cache of at most `budget` bytes that encodes at most `concurrent` images at once.
    pub fn new(vlm: Arc<dyn VisionLanguageModel>, budget: u64, concurrent: usize) -> Self {
        let cache = Cache::builder()
            .max_capacity(budget)
            .weigher(|_, encoding: &Encoding| encoding.bytes())
            .build();
        Self {
            vlm,
            evidence: None,
            cache,
            turns: Turns::new(concurrent),
        }
    }

    /// Computes evidence along with encodings, if given.
    pub fn with_evidence(self, evidence: Option<Arc<Evidence>>) -> Self {
        Self { evidence, ..self }
    }

    /// Returns the encoding of the image in `file`, processed by `options`. `pixels` makes the
    /// model's input of it; it runs on a blocking thread, and only on a cache miss. Concurrent
    /// requests of one scope for the same image share one encoding; errors are not cached.
    ///
    /// # Errors
    /// Those of `pixels` and of the model.
    pub async fn get<E, F>(
        &self,
        file: &HashedFile,
        options: &ImageOptions,
        scope: &CacheScope,
        share: &Share,
        pixels: F,
    ) -> Result<EncodedImage, Arc<EncodingError<E>>>
    where
        E: Send + Sync + 'static,
        F: FnOnce() -> Result<Tensor, E> + Send + 'static,
    {
        let id = scope.key(&file.hash(), options);
        let entry = self
            .cache
            .entry(id)
            .or_try_insert_with(self.encode(share.clone(), decode_work(file.len()), pixels))
            .await?;
        let hit = !entry.is_fresh();
        let Encoding {
            features,
            evidence,
            encoded,
        } = entry.into_value();
        Ok(EncodedImage {
            hit,
            encoded,
            image: ImageFeatures { id, features },
            evidence,
        })
    }

    /// Waits for a turn to decode a file of `bytes` that is not encoded.
    pub async fn turn(&self, share: &Share, bytes: usize) -> FairTurn {
        self.turns.take(share, decode_work(bytes)).await
    }

    /// Returns the size of the cached encodings in bytes.
    pub fn used(&self) -> u64 {
        self.cache.weighted_size()
    }

    fn encode<E, F>(
        &self,
        share: Share,
        work: u64,
        pixels: F,
    ) -> impl Future<Output = Result<Encoding, EncodingError<E>>> + use<E, F>
    where
        E: Send + Sync + 'static,
        F: FnOnce() -> Result<Tensor, E> + Send + 'static,
    {
        let (vlm, evidence, turns) = (
            Arc::clone(&self.vlm),
            self.evidence.clone(),
            self.turns.clone(),
        );
        async move {
            let turn = turns.take(&share, work).await;
            let work = move || {
                // The turn ends with the work, even if the request was canceled.
                let _turn = turn;
                let pixels = pixels().map_err(EncodingError::Pixels)?;
                encode_one(vlm.as_ref(), evidence.as_deref(), &pixels)
                    .map_err(|e| EncodingError::Model(e.to_string()))
            };
            spawn_blocking(work)
                .await
                .unwrap_or_else(|e| Err(EncodingError::Model(e.to_string())))
        }
    }
}

/// Returns the work units of decoding and encoding a file: the encoder takes about as long as
/// decoding 64 KiB.
fn decode_work(bytes: usize) -> u64 {
    1 + (bytes >> 16) as u64
}

fn encode_one(
    vlm: &dyn VisionLanguageModel,
    evidence: Option<&Evidence>,
    pixels: &Tensor,
) -> candle_core::Result<Encoding> {
    let began = Instant::now();
    let features = vlm.encode(pixels)?;
    let evidence = evidence
        .map(|evidence| evidence.evaluate(&features))
        .transpose()?;
    Ok(Encoding {
        features,
        evidence,
        encoded: began..Instant::now(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use candle_core::Device;
    use futures_util::FutureExt;

    use super::*;
    use crate::engine::testing::Toy;

    fn pixels(value: f32) -> Result<Tensor, String> {
        Tensor::full(value, (1, 3, 2, 2), &Device::Cpu).map_err(|e| e.to_string())
    }

    async fn get<F>(
        cache: &ImageCache,
        file: &[u8],
        pixels: F,
    ) -> Result<EncodedImage, Arc<EncodingError<String>>>
    where
        F: FnOnce() -> Result<Tensor, String> + Send + 'static,
    {
        cache
            .get(
                &HashedFile::new(file.to_vec()),
                &ImageOptions::default(),
                &CacheScope::Owner("".into()),
                &Share::default(),
                pixels,
            )
            .await
    }

    #[test]
    fn equal_images_of_different_scopes_share_no_encoding() {
        let toy = Toy::new();
        let cache = ImageCache::new(toy.clone(), 1 << 20, 2);
        let scopes = [
            CacheScope::Owner("".into()),
            CacheScope::Owner("a".into()),
            CacheScope::Owner("b".into()),
            CacheScope::Salt("".into()),
            CacheScope::Salt("a".into()),
        ];
        block_on(async {
            for expected in [false, true] {
                let found = scopes.iter().map(|scope| async {
                    let file = HashedFile::new(b"one".to_vec());
                    let options = ImageOptions::default();
                    let share = Share::default();
                    let encoded = cache.get(&file, &options, scope, &share, || pixels(1.0));
                    let encoded = encoded.await.unwrap();
                    (encoded.hit, encoded.image.id)
                });
                let found = futures_util::future::join_all(found).await;
                assert!(found.iter().all(|&(hit, _)| hit == expected));
                let ids: std::collections::HashSet<ImageId> =
                    found.iter().map(|&(_, id)| id).collect();
                assert_eq!(ids.len(), 5);
            }
        });
        assert_eq!(toy.encodes.load(SeqCst), 5);
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn concurrent_requests_for_an_image_encode_it_once() {
        let toy = Toy::new();
        let cache = ImageCache::new(toy.clone(), 1 << 20, 2);
        let decoded = Arc::new(AtomicUsize::new(0));
        block_on(async {
            let one = |value: f32| {
                let (cache, decoded) = (&cache, Arc::clone(&decoded));
                get(cache, b"one", move || {
                    decoded.fetch_add(1, SeqCst);
                    pixels(value)
                })
            };
            let (a, b) = tokio::join!(one(1.0), one(2.0));
            let (a, b) = (a.unwrap(), b.unwrap());
            assert_eq!((a.hit, b.hit), (false, true));
            let again = one(3.0).await.unwrap();
            assert!(again.hit);
            for encoded in [a, b, again] {
                let features = encoded.image.features.to_vec2::<f32>().unwrap();
                assert_eq!(features, [[1.0], [1.0]]);
            }
            let other = get(&cache, b"two", || pixels(2.0)).await.unwrap();
            assert_eq!(
                (other.hit, other.image.features.to_vec2::<f32>().unwrap()),
                (false, vec![vec![2.0], vec![2.0]])
            );
        });
        assert_eq!((decoded.load(SeqCst), toy.encodes.load(SeqCst)), (1, 2));
    }

    #[test]
    fn errors_and_panics_are_returned_and_not_cached() {
        let cache = ImageCache::new(Toy::new(), 1 << 20, 1);
        block_on(async {
            let error = get(&cache, b"x", || Err("not an image".to_owned()))
                .await
                .unwrap_err();
            assert_eq!(error.to_string(), "not an image");
            let error = get(&cache, b"x", || -> Result<Tensor, String> {
                panic!("in the decoder")
            })
            .await
            .unwrap_err();
            assert!(matches!(*error, EncodingError::Model(_)), "{error}");
            let wrong = || {
                Tensor::zeros((3, 5), candle_core::DType::F32, &Device::Cpu)
                    .map_err(|e| e.to_string())
            };
            let error = get(&cache, b"x", wrong).await.unwrap_err();
            assert!(
                error.to_string().starts_with("the image encoder failed"),
                "{error}"
            );
            assert!(!get(&cache, b"x", || pixels(1.0)).await.unwrap().hit);
        });
    }

    #[test]
    fn cached_bytes_stay_within_the_budget() {
        let cache = ImageCache::new(Toy::new(), 24, 1);
        block_on(async {
            for i in 0..20u8 {
                get(&cache, &[i], move || pixels(f32::from(i)))
                    .await
                    .unwrap();
            }
            cache.cache.run_pending_tasks().await;
        });
        assert!((8..=24).contains(&cache.used()), "{}", cache.used());
    }

    #[test]
    fn decode_memory_is_granted_in_order_and_within_the_budget() {
        let memory = DecodeMemory::new(10 * DecodeMemory::UNIT);
        let (held, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        block_on(async {
            let tasks: Vec<_> = (0..50u64)
                .map(|i| {
                    let (memory, held, most) =
                        (memory.clone(), Arc::clone(&held), Arc::clone(&most));
                    tokio::spawn(async move {
                        let units = 1 + i % 7;
                        let permit = memory
                            .acquire(units * DecodeMemory::UNIT - i % 2)
                            .await
                            .unwrap();
                        assert_eq!(permit.num_permits() as u64, units);
                        most.fetch_max(
                            held.fetch_add(units as usize, SeqCst) + units as usize,
                            SeqCst,
                        );
                        tokio::task::yield_now().await;
                        held.fetch_sub(units as usize, SeqCst);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert!((7..=10).contains(&most.load(SeqCst)), "{most:?}");
            // More than the budget is capped at it; a small request behind a large one waits.
            let small = memory.acquire(1).await;
            let large = tokio::spawn({
                let memory = memory.clone();
                async move { memory.acquire(u64::MAX).await.unwrap().num_permits() }
            });
            while memory.units.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let mut next = Box::pin(memory.acquire(1));
            assert!((&mut next).now_or_never().is_none());
            drop(small);
            assert_eq!(large.await.unwrap(), 10);
            assert!(next.await.is_some());
        });
    }

    #[test]
    fn concurrent_encodings_are_bounded() {
        let cache = ImageCache::new(Toy::new(), 1 << 20, 2);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        block_on(async {
            let tasks: Vec<_> = (0..12u8)
                .map(|i| {
                    let (cache, now, most) = (cache.clone(), Arc::clone(&now), Arc::clone(&most));
                    tokio::spawn(async move {
                        let work = move || {
                            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                            std::thread::yield_now();
                            now.fetch_sub(1, SeqCst);
                            pixels(f32::from(i))
                        };
                        get(&cache, &[i], work).await.map(|e| e.hit)
                    })
                })
                .collect();
            for task in tasks {
                assert!(!task.await.unwrap().unwrap());
            }
        });
        assert!((1..=2).contains(&most.load(SeqCst)));
    }
}
