//! Vision features of a photograph folder, computed once: the tower is frozen.

use std::{fs, path::Path};

use candle_core::{Device, Result as CandleResult, Tensor};
use half::{f16, slice::HalfFloatSliceExt};
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use sha2::{Digest, Sha256};

use super::{TrainError, parallel::Workers, tower::Tower};
use crate::eval::data::flickr8k::Image;
use crate::vlm::{
    llava::{PIXEL_MEAN, PIXEL_STD},
    preprocess,
    vision::efficientnet_lite::EfficientNetLite,
};

/// How an image may be seen in training: as it is and mirrored, and a part of it in the same two ways.
pub const VIEWS: usize = 4;

/// Width and height of that part, as a share of the image's.
const CROP: std::ops::Range<f64> = 0.8..0.95;

/// Features `(image_tokens, channels)` of every view of every image, in f16 to halve the memory.
pub struct Features {
    data: Vec<f16>,
    shape: (usize, usize),
    views: usize,
}

impl Features {
    /// Encodes the first `views` of [`VIEWS`] of each of `images`, or reads the cache file that an earlier run over the same files left.
    ///
    /// # Errors
    /// When an image cannot be read: the error names it.
    pub fn compute(images: &[Image], views: usize, tower: &Tower, workers: &Workers, cache: &Path) -> Result<Self, TrainError> {
        let Tower { net, digest } = tower;
        let shape = (net.tokens(), net.channels());
        let size = shape.0 * shape.1 * views;
        let key = fingerprint(images, views, digest);
        if let Some(data) = read_cache(cache, &key, images.len() * size) {
            return Ok(Self { data, shape, views });
        }
        let bar = ProgressBar::new(images.len() as u64).with_style(
            ProgressStyle::with_template("encoding photographs {bar:40} {pos}/{len} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let numbered: Vec<(usize, &Image)> = images.iter().enumerate().collect();
        let encoded = workers.map(&numbered, |&(i, image)| {
            bar.inc(1);
            encode(image, views, net, i as u64).map_err(|e| e.context(format!("image {}", image.path.display())))
        })?;
        bar.finish_and_clear();
        let data = encoded.concat();
        write_cache(cache, &key, &data)?;
        Ok(Self { data, shape, views })
    }

    /// Adds those of other images behind these.
    ///
    /// # Errors
    /// When they are of another shape, or of another number of views.
    pub fn append(&mut self, other: Self) -> Result<(), TrainError> {
        if (self.shape, self.views) != (other.shape, other.views) {
            return Err(TrainError::Run("features of two kinds cannot be joined".into()));
        }
        self.data.extend(other.data);
        Ok(())
    }

    /// Those of some images, each as it is: without other views.
    pub fn plain(&self, images: &[usize]) -> Self {
        let size = self.shape.0 * self.shape.1;
        let of = |&image: &usize| {
            let first = image * self.views * size;
            self.data.get(first..first + size).unwrap_or_default().iter().copied()
        };
        Self { data: images.iter().flat_map(of).collect(), shape: self.shape, views: 1 }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.data.len() / (self.shape.0 * self.shape.1 * self.views)
    }

    /// Ways in which each image is seen.
    pub fn views(&self) -> usize {
        self.views
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Features of `(image, view)` pairs: `(n, image_tokens, channels)` in f32.
    pub fn batch(&self, which: &[(usize, usize)]) -> CandleResult<Tensor> {
        let size = self.shape.0 * self.shape.1;
        let mut out = vec![0f32; which.len() * size];
        for (&(image, view), out) in which.iter().zip(out.chunks_mut(size)) {
            let first = (image * self.views + view) * size;
            self.data[first..first + size].convert_to_f32_slice(out);
        }
        Tensor::from_vec(out, (which.len(), self.shape.0, self.shape.1), &Device::Cpu)
    }
}

fn encode(image: &Image, views: usize, tower: &EfficientNetLite, seed: u64) -> CandleResult<Vec<f16>> {
    let bytes = fs::read(&image.path)?;
    let decoded = preprocess::decode(&bytes, &preprocess::ImageLimits::default()).map_err(candle_core::Error::wrap)?;
    let mut out = Vec::new();
    for view in 0..views {
        let seen = if view < 2 { decoded.clone() } else { crop(&decoded, &mut SmallRng::seed_from_u64(seed)) };
        let picture = if view % 2 == 0 { seen } else { image::imageops::flip_horizontal(&seen) };
        let pixels = preprocess::to_pixels(&picture, tower.image_size(), PIXEL_MEAN, PIXEL_STD, &Device::Cpu)?;
        let features = tower.forward(&pixels.unsqueeze(0)?)?.flatten_all()?.to_vec1::<f32>()?;
        out.extend(features.into_iter().map(f16::from_f32));
    }
    Ok(out)
}

/// A random part of an image.
fn crop(image: &RgbImage, rng: &mut impl Rng) -> RgbImage {
    let share = rng.random_range(CROP);
    let inner = |side: u32| ((f64::from(side) * share).round() as u32).clamp(1, side);
    let (width, height) = (inner(image.width()), inner(image.height()));
    let (x, y) = (rng.random_range(0..=image.width() - width), rng.random_range(0..=image.height() - height));
    image::imageops::crop_imm(image, x, y, width, height).to_image()
}

/// Names and sizes of the files, and the tower: enough to notice that a cache belongs to other data.
fn fingerprint(images: &[Image], views: usize, tower: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(views.to_le_bytes());
    hash.update(tower);
    for image in images {
        let size = fs::metadata(&image.path).map_or(0, |m| m.len());
        hash.update(format!("{} {size}\n", image.name));
    }
    hash.finalize().into()
}

fn read_cache(path: &Path, key: &[u8; 32], elements: usize) -> Option<Vec<f16>> {
    let bytes = fs::read(path).ok()?;
    let (head, body) = bytes.split_at_checked(32)?;
    (head == key && body.len() == elements * 2).then(|| body.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect())
}

fn write_cache(path: &Path, key: &[u8; 32], data: &[f16]) -> Result<(), TrainError> {
    let mut bytes = Vec::with_capacity(key.len() + 2 * data.len());
    bytes.extend_from_slice(key);
    bytes.extend(data.iter().flat_map(|x| x.to_le_bytes()));
    super::checkpoint::write_atomically(path, &bytes)
}
