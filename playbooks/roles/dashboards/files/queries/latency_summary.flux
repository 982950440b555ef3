latencies = from(bucket: v.bucket)
  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
  |> filter(fn: (r) => r.run == v.run and r.cell == v.cell)
  |> filter(fn: (r) => r._measurement == "transaction" and r._field == "id")
  |> filter(fn: (r) => (r.event == "submitted" and r.validator == "client") or r.event == "finalized")
  |> filter(fn: (r) => r.event == "submitted" or v.validator == "(all)" or r.validator == v.validator)
  |> keep(columns: ["_time", "_value", "event"])
  |> group()
  |> sort(columns: ["_time"])
  |> pivot(rowKey: ["_value"], columnKey: ["event"], valueColumn: "_time")
  |> filter(fn: (r) => exists r.submitted and exists r.finalized)
  |> map(fn: (r) => ({_time: r.finalized, _value: float(v: int(v: r.finalized) - int(v: r.submitted)) / 1000000000.0}))

percentile = (share, name) => latencies
  |> quantile(q: share, method: "exact_mean")
  |> set(key: "percentile", value: name)

union(tables: [
  percentile(share: 0.5, name: "p50"),
  percentile(share: 0.9, name: "p90"),
  percentile(share: 0.99, name: "p99"),
  latencies |> max() |> set(key: "percentile", value: "max"),
])
  |> group()
  |> keep(columns: ["_value", "percentile"])
