//! The functions of `rsflow_net.h`, which says what they do.
//!
//! Each catches what goes wrong in it: an error becomes the thread's message, and so does a panic, which must
//! not unwind into C.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::slice;

use anyhow::{Context as _, Result, anyhow, ensure};
use rsflow_model::nn::compute::{self, DeviceChoice, Precision, ProcessSettings};
use rsflow_serve::{Budget, Images, Options, RsNet};

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

/// A network, and the names of its classes as C has them.
#[allow(non_camel_case_types)]
pub struct rsflow_net {
    net: RsNet,
    classes: Vec<CString>,
}

/// A class and its probability in 0..1.
#[allow(non_camel_case_types)]
#[repr(C)]
pub struct rsflow_prediction {
    class_index: usize,
    probability: f64,
}

/// The value, or `failed` with the message kept.
fn caught<T>(failed: T, call: impl FnOnce() -> Result<T>) -> T {
    let result = catch_unwind(AssertUnwindSafe(call));
    let result = result.unwrap_or_else(|_| Err(anyhow!("a panic, which is a bug of rsflow")));
    result.unwrap_or_else(|error| {
        let text = format!("{error:#}").replace('\0', "\u{fffd}");
        ERROR.with_borrow_mut(|kept| *kept = CString::new(text).unwrap_or_default());
        failed
    })
}

/// # Safety
/// Null, or a network of `rsflow_open` that is not closed.
unsafe fn opened<'a>(net: *const rsflow_net) -> Result<&'a rsflow_net> {
    // SAFETY: the caller's promise.
    unsafe { net.as_ref() }.context("the network is NULL")
}

/// No memory is larger than `isize::MAX` bytes.
fn check<T>(first: *const T, count: usize, name: &str) -> Result<()> {
    ensure!(!first.is_null(), "`{name}` is NULL");
    let most = isize::MAX as usize / size_of::<T>();
    ensure!(count <= most, "`{name}` cannot have {count} values");
    Ok(())
}

/// # Safety
/// Null, or `count` values that live as long as the call.
unsafe fn values<'a, T>(first: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check(first, count, name)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { slice::from_raw_parts(first, count) })
}

/// As [`values`], to be written.
///
/// # Safety
/// As there, and nobody else uses them.
unsafe fn places<'a, T>(first: *mut T, count: usize, name: &str) -> Result<&'a mut [T]> {
    if count == 0 {
        return Ok(&mut []);
    }
    check(first, count, name)?;
    // SAFETY: the caller's promise, and what is written here has no value that is not allowed.
    Ok(unsafe { slice::from_raw_parts_mut(first, count) })
}

#[unsafe(no_mangle)]
pub extern "C" fn rsflow_error() -> *const c_char {
    ERROR.with_borrow(|kept| kept.as_ptr())
}

/// # Safety
/// Null, or a string that ends with a zero.
unsafe fn text<'a>(text: *const c_char) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    Ok(Some(text.to_str().context("a text is not UTF-8")?))
}

/// # Safety
/// A string that ends with a zero, `count` sizes, and for `device` and `precision` null or such a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_open(
    checkpoint: *const c_char,
    sizes: *const u32,
    count: usize,
    device: *const c_char,
    precision: *const c_char,
) -> *mut rsflow_net {
    caught(ptr::null_mut(), || {
        // SAFETY: the caller's promise.
        let (path, sizes, device, precision) = unsafe {
            let sizes = values(sizes, count, "sizes")?;
            (text(checkpoint)?, sizes, text(device)?, text(precision)?)
        };
        let path = path.context("`checkpoint` is NULL")?;
        let device = match device {
            None => DeviceChoice::Auto,
            Some(name) => DeviceChoice::from_name(name).with_context(|| {
                format!("{name:?} is no device; `auto`, `cpu` and `cuda:0` are")
            })?,
        };
        let precision = match precision {
            None => Precision::Auto,
            Some(name) => Precision::from_name(name).with_context(|| {
                format!("{name:?} is no precision; `auto`, `float32`, `tf32`, `bfloat16` and `float16` are")
            })?,
        };
        // As `rsflow predict` does it.
        compute::apply(&ProcessSettings {
            device,
            tf32: precision == Precision::TensorFloat32,
            deterministic: false,
            threads: None,
        })?;
        let options = Options {
            sizes: sizes.to_vec(),
            device,
            precision,
            ..Options::default()
        };
        let net = RsNet::open(path, &options)?;
        let names = net.runtime().classes().iter();
        let classes = names.map(|name| CString::new(name.replace('\0', "\u{fffd}")));
        let classes = classes.collect::<Result<_, _>>()?;
        Ok(Box::into_raw(Box::new(rsflow_net { net, classes })))
    })
}

/// # Safety
/// Null, or a network of `rsflow_open` that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_close(net: *mut rsflow_net) {
    if !net.is_null() {
        caught((), || {
            // SAFETY: it is from `Box::into_raw`, and the caller promises that it is not used.
            drop(unsafe { Box::from_raw(net) });
            Ok(())
        });
    }
}

/// # Safety
/// A network, and room for so many sizes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_sizes(
    net: *const rsflow_net,
    sizes: *mut u32,
    room: usize,
) -> usize {
    caught(0, || {
        // SAFETY: the caller's promise.
        let (net, places) = unsafe { (opened(net)?, places(sizes, room, "sizes")?) };
        let loaded = net.net.sizes();
        for (place, size) in places.iter_mut().zip(loaded) {
            *place = *size;
        }
        Ok(loaded.len())
    })
}

/// # Safety
/// A network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_class_count(net: *const rsflow_net) -> usize {
    // SAFETY: the caller's promise.
    caught(0, || Ok(unsafe { opened(net) }?.classes.len()))
}

/// # Safety
/// A network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_class_name(net: *const rsflow_net, index: usize) -> *const c_char {
    caught(ptr::null(), || {
        // SAFETY: the caller's promise.
        let classes = &unsafe { opened(net) }?.classes;
        let name = classes.get(index);
        let name = name.with_context(|| format!("there are {} classes", classes.len()))?;
        Ok(name.as_ptr())
    })
}

/// # Safety
/// A network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_size_within(net: *const rsflow_net, milliseconds: f64) -> u32 {
    caught(0, || {
        // SAFETY: the caller's promise.
        let net = &unsafe { opened(net) }?.net;
        net.size_within(Budget::Milliseconds(milliseconds))
    })
}

/// # Safety
/// A network, so many bytes, and room for so many predictions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_classify(
    net: *const rsflow_net,
    file: *const u8,
    bytes: usize,
    size: u32,
    predictions: *mut rsflow_prediction,
    top: usize,
) -> usize {
    caught(0, || {
        ensure!(top > 0, "`top` must be at least 1");
        // SAFETY: the caller's promise.
        let (net, file, places) = unsafe {
            let net = opened(net)?;
            let top = top.min(net.classes.len());
            let places = places(predictions, top, "predictions")?;
            (net, values(file, bytes, "file")?, places)
        };
        let answer = net.net.classify(file, size, top)?;
        for (place, prediction) in places.iter_mut().zip(&answer.predictions) {
            place.class_index = prediction.index;
            place.probability = prediction.probability;
        }
        Ok(answer.predictions.len())
    })
}

/// # Safety
/// A network, pixels of so many images, and room for their logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_logits(
    net: *const rsflow_net,
    pixels: *const u8,
    count: usize,
    size: u32,
    logits: *mut f32,
) -> c_int {
    caught(0, || {
        // SAFETY: the caller's promise.
        let net = unsafe { opened(net) }?;
        let side = size as usize;
        let bytes = side
            .checked_mul(side)
            .and_then(|n| n.checked_mul(3)?.checked_mul(count));
        let values_out = count.checked_mul(net.classes.len());
        let (bytes, values_out) = bytes.zip(values_out).context("too many images")?;
        // SAFETY: the caller's promise.
        let (pixels, logits) = unsafe {
            let logits = places(logits, values_out, "logits")?;
            (values(pixels, bytes, "pixels")?, logits)
        };
        let runtime = net.net.runtime();
        runtime.logits_into(Images::Bytes(pixels), size, logits)?;
        Ok(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_opened_says_why() {
        for (checkpoint, device, precision, expected) in [
            (None, None, None, "`checkpoint` is NULL"),
            (Some(c"missing"), Some(c"tpu"), None, "\"tpu\" is no device"),
            (
                Some(c"missing"),
                Some(c"cpu"),
                Some(c"int8"),
                "\"int8\" is no precision",
            ),
            (Some(c"missing"), Some(c"cpu"), Some(c"bf16"), "missing"),
            (Some(c"\xff"), None, None, "not UTF-8"),
        ] {
            let pointer = |text: Option<&'static CStr>| text.map_or(ptr::null(), CStr::as_ptr);
            let sizes = ptr::null();
            // SAFETY: strings that end with a zero, and no sizes.
            let net = unsafe {
                rsflow_open(
                    pointer(checkpoint),
                    sizes,
                    0,
                    pointer(device),
                    pointer(precision),
                )
            };
            assert!(net.is_null());
            // SAFETY: a string that ends with a zero.
            let message = unsafe { CStr::from_ptr(rsflow_error()) }.to_string_lossy();
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }
}
