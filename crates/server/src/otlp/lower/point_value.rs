//! The values of data points as canonical JSON.

use evidence::canonical::Writer;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint, SummaryDataPoint,
};

use super::super::any::write_f64;

pub(crate) fn number(point: &NumberDataPoint, out: &mut Vec<u8>) {
    let mut w = Writer::new(out);
    match point.value {
        Some(number_data_point::Value::AsDouble(number)) => write_f64(&mut w, number),
        Some(number_data_point::Value::AsInt(number)) => w.i64(number),
        None => w.null(),
    };
}

fn opt_f64(w: &mut Writer<'_>, key: &'static str, number: Option<f64>) {
    if let Some(number) = number {
        w.key(key);
        write_f64(w, number);
    }
}

fn write_u64s(w: &mut Writer<'_>, key: &'static str, numbers: &[u64]) {
    w.key(key);
    w.open_array();
    for &number in numbers {
        w.u64(number);
    }
    w.close_array();
}

pub(crate) fn histogram(point: &HistogramDataPoint, out: &mut Vec<u8>) {
    let mut w = Writer::new(out);
    w.open_object();
    write_u64s(&mut w, "bucket_counts", &point.bucket_counts);
    w.key("count");
    w.u64(point.count);
    w.key("explicit_bounds");
    w.open_array();
    for &bound in &point.explicit_bounds {
        write_f64(&mut w, bound);
    }
    w.close_array();
    opt_f64(&mut w, "max", point.max);
    opt_f64(&mut w, "min", point.min);
    opt_f64(&mut w, "sum", point.sum);
    w.close_object();
}

fn write_buckets(w: &mut Writer<'_>, key: &'static str, buckets: Option<&Buckets>) {
    if let Some(buckets) = buckets {
        w.key(key);
        w.open_object();
        write_u64s(w, "bucket_counts", &buckets.bucket_counts);
        w.key("offset");
        w.i64(i64::from(buckets.offset));
        w.close_object();
    }
}

pub(crate) fn exponential(point: &ExponentialHistogramDataPoint, out: &mut Vec<u8>) {
    let mut w = Writer::new(out);
    w.open_object();
    w.key("count");
    w.u64(point.count);
    opt_f64(&mut w, "max", point.max);
    opt_f64(&mut w, "min", point.min);
    write_buckets(&mut w, "negative", point.negative.as_ref());
    write_buckets(&mut w, "positive", point.positive.as_ref());
    w.key("scale");
    w.i64(i64::from(point.scale));
    opt_f64(&mut w, "sum", point.sum);
    w.key("zero_count");
    w.u64(point.zero_count);
    opt_f64(
        &mut w,
        "zero_threshold",
        Some(point.zero_threshold).filter(|threshold| *threshold != 0.0),
    );
    w.close_object();
}

pub(crate) fn summary(point: &SummaryDataPoint, out: &mut Vec<u8>) {
    let mut w = Writer::new(out);
    w.open_object();
    w.key("count");
    w.u64(point.count);
    w.key("quantiles");
    w.open_array();
    for quantile in &point.quantile_values {
        w.open_object();
        w.key("quantile");
        write_f64(&mut w, quantile.quantile);
        w.key("value");
        write_f64(&mut w, quantile.value);
        w.close_object();
    }
    w.close_array();
    opt_f64(&mut w, "sum", Some(point.sum));
    w.close_object();
}
