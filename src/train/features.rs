//! Vision features of a photograph folder, computed once: the tower is frozen.

use std::{fs, path::Path};

use candle_core::{Device, Result as CandleResult, Tensor};
use half::{f16, slice::HalfFloatSliceExt};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::{TrainError, flickr8k::Image, parallel::Workers};
use crate::vlm::{
    llava::{PIXEL_MEAN, PIXEL_STD},
    preprocess,
    vision::efficientnet_lite::EfficientNetLite,
};

/// How an image may be seen: as it is, and mirrored.
pub const VIEWS: usize = 2;

/// Features `(image_tokens, channels)` of every view of every image, in f16 to halve the memory.
pub struct Features {
    data: Vec<f16>,
    shape: (usize, usize),
    views: usize,
}

impl Features {
    /// Encodes `images` (each as it is, and mirrored when `views` is 2), or reads the cache file that an earlier run over the same files left.
    ///
    /// # Errors
    /// When an image cannot be read: the error names it.
    pub fn compute(images: &[Image], views: usize, tower: &EfficientNetLite, workers: &Workers, cache: &Path) -> Result<Self, TrainError> {
        let shape = (tower.tokens(), tower.channels());
        let size = shape.0 * shape.1 * views;
        let key = fingerprint(images, views, shape);
        if let Some(data) = read_cache(cache, &key, images.len() * size) {
            return Ok(Self { data, shape, views });
        }
        let bar = ProgressBar::new(images.len() as u64).with_style(
            ProgressStyle::with_template("encoding photographs {bar:40} {pos}/{len} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let encoded = workers.map(images, |image| {
            bar.inc(1);
            encode(image, views, tower).map_err(|e| e.context(format!("image {}", image.path.display())))
        })?;
        bar.finish_and_clear();
        let data: Vec<f16> = encoded.into_iter().flatten().collect();
        write_cache(cache, &key, &data)?;
        Ok(Self { data, shape, views })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.data.len() / (self.shape.0 * self.shape.1 * self.views)
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

fn encode(image: &Image, views: usize, tower: &EfficientNetLite) -> CandleResult<Vec<f16>> {
    let bytes = fs::read(&image.path)?;
    let decoded = preprocess::decode(&bytes, &preprocess::ImageLimits::default()).map_err(candle_core::Error::wrap)?;
    let mut out = Vec::new();
    for view in 0..views {
        let picture = if view == 0 { decoded.clone() } else { image::imageops::flip_horizontal(&decoded) };
        let pixels = preprocess::to_pixels(&picture, tower.image_size(), PIXEL_MEAN, PIXEL_STD, &Device::Cpu)?;
        let features = tower.forward(&pixels.unsqueeze(0)?)?.flatten_all()?.to_vec1::<f32>()?;
        out.extend(features.into_iter().map(f16::from_f32));
    }
    Ok(out)
}

/// Names and sizes of the files, and the shape: enough to notice that a cache belongs to other data.
fn fingerprint(images: &[Image], views: usize, shape: (usize, usize)) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(format!("{views} {shape:?}"));
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
    let mut bytes = key.to_vec();
    bytes.extend(data.iter().flat_map(|x| x.to_le_bytes()));
    super::checkpoint::write_atomically(path, &bytes)
}
