//! Cached vision features of images; the vision tower is frozen.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use candle_core::{Device, Result as CandleResult, Tensor};
use half::{f16, slice::HalfFloatSliceExt};
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use sha2::{Digest, Sha256};

use super::{TrainError, parallel::Workers, tower::Tower};
use crate::eval::data::{Rect, flickr8k::Image};
use crate::vlm::{
    models::candor_mini::{PIXEL_MEAN, PIXEL_STD},
    preprocess,
    vision::efficientnet_lite::EfficientNetLite,
};

/// Training views of an image: the whole image, its mirror image, a random crop and the crop's
/// mirror image.
pub const VIEWS: usize = 4;

/// Side length of the random crop as a share of the image's.
const CROP: std::ops::Range<f64> = 0.8..0.95;

/// Images encoded per write.
const PIECE: usize = 128;

/// Bytes of the header, a digest of images, views and tower.
const HEAD: u64 = 32;

/// Rectangle of an image, optionally mirrored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crop {
    /// Rectangle, in shares of the image's sides.
    pub rect: Rect,
    /// `true` if left and right are exchanged.
    pub is_mirrored: bool,
}

impl Crop {
    /// Cuts the crop out of an image, at least one pixel wide and high.
    fn cut(&self, image: &RgbImage) -> RgbImage {
        let pixels = |begin: f64, length: f64, side: u32| {
            let first = ((begin * f64::from(side)).round() as u32).min(side.saturating_sub(1));
            (
                first,
                ((length * f64::from(side)).round() as u32).clamp(1, side - first),
            )
        };
        let (x, width) = pixels(self.rect.left, self.rect.width, image.width());
        let (y, height) = pixels(self.rect.top, self.rect.height, image.height());
        let mut part = image::imageops::crop_imm(image, x, y, width, height).to_image();
        if self.is_mirrored {
            image::imageops::flip_horizontal_in_place(&mut part);
        }
        part
    }
}

/// Encoder of all views of an image, given its index.
type Encode<'a> = dyn Fn(usize, &RgbImage) -> CandleResult<Tensor> + Sync + 'a;

/// Features `(image_tokens, channels)` of every view of every image, in f16 on disk. Batches are
/// read on demand, and the operating system's page cache is shared by all runs.
pub struct Features {
    files: Vec<Arc<File>>,
    /// File index and byte offset of each image's first view.
    offsets: Vec<(usize, u64)>,
    shape: (usize, usize),
    views: usize,
}

impl Features {
    /// Encodes the first `views` of [`VIEWS`] of each image into the file `cache`, or reuses a
    /// cache of the same images.
    ///
    /// # Errors
    /// When an image cannot be read (the error names it) or the file cannot be written.
    pub fn compute(
        images: &[Image],
        views: usize,
        tower: &Tower,
        workers: &Workers,
        cache: &Path,
    ) -> Result<Self, TrainError> {
        let Tower { net, digest } = tower;
        let key = fingerprint(images, &views.to_le_bytes(), digest);
        let encode = |i: usize, image: &RgbImage| {
            let mut out = Vec::new();
            for view in 0..views {
                let cropped =
                    (view >= 2).then(|| crop(image, &mut SmallRng::seed_from_u64(i as u64)));
                let view_image = cropped.as_ref().unwrap_or(image);
                let flipped = (view % 2 == 1).then(|| image::imageops::flip_horizontal(view_image));
                out.push(encode_image(flipped.as_ref().unwrap_or(view_image), net)?);
            }
            Tensor::cat(&out, 0)
        };
        Self::cached(
            images,
            views,
            (net.tokens(), net.channels()),
            &encode,
            workers,
            (&key, cache),
        )
    }

    /// Encodes crops into mean features `(1, channels)`: each crop of an image is a view, addressed
    /// by its index in [`batch`](Self::batch). All images need the same number of crops.
    ///
    /// # Errors
    /// As [`compute`](Self::compute).
    pub fn compute_crops(
        images: &[Image],
        crops: &[Vec<Crop>],
        tower: &Tower,
        workers: &Workers,
        cache: &Path,
    ) -> Result<Self, TrainError> {
        let Tower { net, digest } = tower;
        let each = crops.first().map_or(0, Vec::len);
        if crops.len() != images.len() || crops.iter().any(|crops| crops.len() != each) {
            return Err(TrainError::Run(
                "expected as many crops of one image as of another".into(),
            ));
        }
        let key = fingerprint(images, format!("{crops:?}").as_bytes(), digest);
        let encode = |i: usize, image: &RgbImage| {
            let means = crops[i]
                .iter()
                .map(|crop| encode_image(&crop.cut(image), net)?.mean(0))
                .collect::<CandleResult<Vec<_>>>()?;
            Tensor::cat(&means, 0)
        };
        Self::cached(
            images,
            each,
            (1, net.channels()),
            &encode,
            workers,
            (&key, cache),
        )
    }

    /// Opens the features in a file, or encodes them into it.
    fn cached(
        images: &[Image],
        views: usize,
        shape: (usize, usize),
        encode: &Encode<'_>,
        workers: &Workers,
        (key, cache): (&[u8; 32], &Path),
    ) -> Result<Self, TrainError> {
        let stride = 2 * (shape.0 * shape.1 * views) as u64;
        let file = match stored(cache, key, HEAD + stride * images.len() as u64) {
            Some(file) => file,
            None => {
                write(images, encode, workers, key, cache)?;
                File::open(cache).map_err(TrainError::io(cache))?
            }
        };
        let offsets = (0..images.len() as u64)
            .map(|i| (0, HEAD + i * stride))
            .collect();
        Ok(Self {
            files: vec![Arc::new(file)],
            offsets,
            shape,
            views,
        })
    }

    /// Appends the features of other images.
    ///
    /// # Errors
    /// When shapes or numbers of views differ.
    pub fn append(&mut self, other: Self) -> Result<(), TrainError> {
        if (self.shape, self.views) != (other.shape, other.views) {
            return Err(TrainError::Run(
                "features of two kinds cannot be joined".into(),
            ));
        }
        let before = self.files.len();
        self.files.extend(other.files);
        self.offsets.extend(
            other
                .offsets
                .into_iter()
                .map(|(file, first)| (before + file, first)),
        );
        Ok(())
    }

    /// Selects images, with their first view only.
    pub fn plain(&self, images: &[usize]) -> Self {
        let offsets = images
            .iter()
            .filter_map(|&image| self.offsets.get(image).copied())
            .collect();
        Self {
            files: self.files.clone(),
            offsets,
            shape: self.shape,
            views: 1,
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Number of views per image.
    pub fn views(&self) -> usize {
        self.views
    }

    /// Returns `true` if there are no images.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Features of `(image, view)` pairs: `(n, image_tokens, channels)` in f32.
    ///
    /// # Errors
    /// When there is no such image or view, or the file cannot be read.
    pub fn batch(&self, which: &[(usize, usize)]) -> CandleResult<Tensor> {
        let size = self.shape.0 * self.shape.1;
        let mut out = vec![0f32; which.len() * size];
        let (mut bytes, mut stored) = (vec![0u8; 2 * size], vec![f16::ZERO; size]);
        for (&(image, view), out) in which.iter().zip(out.chunks_mut(size)) {
            let Some(&(file, first)) = self.offsets.get(image).filter(|_| view < self.views) else {
                candle_core::bail!("there are no features of image {image} in view {view}");
            };
            self.files[file].read_exact_at(&mut bytes, first + 2 * (view * size) as u64)?;
            stored
                .iter_mut()
                .zip(bytes.chunks_exact(2))
                .for_each(|(x, b)| *x = f16::from_le_bytes([b[0], b[1]]));
            stored.convert_to_f32_slice(out);
        }
        Tensor::from_vec(out, (which.len(), self.shape.0, self.shape.1), &Device::Cpu)
    }
}

/// Opens the cache if it is complete and has the expected digest.
fn stored(cache: &Path, key: &[u8; 32], bytes: u64) -> Option<File> {
    let file = File::open(cache).ok()?;
    let mut head = [0; HEAD as usize];
    file.read_exact_at(&mut head, 0).ok()?;
    (&head == key && file.metadata().ok()?.len() == bytes).then_some(file)
}

/// Encodes images chunk by chunk into a temporary file, which is renamed when complete.
fn write(
    images: &[Image],
    encode: &Encode<'_>,
    workers: &Workers,
    key: &[u8; 32],
    cache: &Path,
) -> Result<(), TrainError> {
    let bar = ProgressBar::new(images.len() as u64).with_style(
        ProgressStyle::with_template("encoding photographs {bar:40} {pos}/{len} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let temporary = cache.with_extension("new");
    let mut out = BufWriter::new(File::create(&temporary).map_err(TrainError::io(&temporary))?);
    out.write_all(key).map_err(TrainError::io(&temporary))?;
    let numbered: Vec<(usize, &Image)> = images.iter().enumerate().collect();
    for piece in numbered.chunks(PIECE) {
        let encoded = workers.map(piece, |&(i, image)| {
            bar.inc(1);
            let features = || {
                let features = encode(i, &decoded(image)?)?
                    .flatten_all()?
                    .to_vec1::<f32>()?;
                Ok::<Vec<f16>, candle_core::Error>(
                    features.into_iter().map(f16::from_f32).collect(),
                )
            };
            features().map_err(|e| e.context(format!("image {}", image.path.display())))
        })?;
        for x in encoded.into_iter().flatten() {
            out.write_all(&x.to_le_bytes())
                .map_err(TrainError::io(&temporary))?;
        }
    }
    out.flush().map_err(TrainError::io(&temporary))?;
    bar.finish_and_clear();
    fs::rename(&temporary, cache).map_err(TrainError::io(cache))
}

fn decoded(image: &Image) -> CandleResult<RgbImage> {
    preprocess::decode(&fs::read(&image.path)?, &preprocess::ImageLimits::default())
        .map_err(candle_core::Error::wrap)
}

/// Features `(image_tokens, channels)` of an image or crop.
fn encode_image(view_image: &RgbImage, net: &EfficientNetLite) -> CandleResult<Tensor> {
    let pixels = preprocess::to_pixels(
        view_image,
        net.image_size(),
        PIXEL_MEAN,
        PIXEL_STD,
        &Device::Cpu,
    )?;
    net.forward(&pixels.unsqueeze(0)?)?.squeeze(0)
}

/// Random crop of an image.
fn crop(image: &RgbImage, rng: &mut impl Rng) -> RgbImage {
    let share = rng.random_range(CROP);
    let inner = |side: u32| ((f64::from(side) * share).round() as u32).clamp(1, side);
    let (width, height) = (inner(image.width()), inner(image.height()));
    let (x, y) = (
        rng.random_range(0..=image.width() - width),
        rng.random_range(0..=image.height() - height),
    );
    image::imageops::crop_imm(image, x, y, width, height).to_image()
}

/// Digest of file names, file sizes, views and tower, which detects a cache of other data.
fn fingerprint(images: &[Image], views: &[u8], tower: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(views);
    hash.update(tower);
    for image in images {
        let size = fs::metadata(&image.path).map_or(0, |m| m.len());
        hash.update(format!("{} {size}\n", image.name));
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_returns_the_rectangle_given_in_shares() {
        let image = RgbImage::from_fn(8, 4, |x, y| image::Rgb([x as u8, y as u8, 0]));
        let crop = |left, top, width, height, is_mirrored| {
            let part = Crop {
                rect: Rect {
                    left,
                    top,
                    width,
                    height,
                },
                is_mirrored,
            }
            .cut(&image);
            let [first, last] = [(0, 0), (part.width() - 1, part.height() - 1)]
                .map(|(x, y)| (part[(x, y)][0], part[(x, y)][1]));
            (part.dimensions(), first, last)
        };
        assert_eq!(crop(0.0, 0.0, 1.0, 1.0, false), ((8, 4), (0, 0), (7, 3)));
        assert_eq!(crop(0.25, 0.5, 0.5, 0.5, false), ((4, 2), (2, 2), (5, 3)));
        assert_eq!(crop(0.25, 0.5, 0.5, 0.5, true), ((4, 2), (5, 2), (2, 3)));
        assert_eq!(
            crop(1.0, 1.0, 0.0, 0.5, false),
            ((1, 1), (7, 3), (7, 3)),
            "never empty, never outside"
        );
    }
}
