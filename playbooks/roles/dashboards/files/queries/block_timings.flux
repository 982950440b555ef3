cell = from(bucket: v.bucket)
  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
  |> filter(fn: (r) => r.run == v.run and r.cell == v.cell)

events = cell
  |> filter(fn: (r) => r._measurement == "block" and r._field == "id")
  |> filter(fn: (r) => r.event == "proposed" or r.event == "verified" or r.event == "justified" or r.event == "finalized")
  |> keep(columns: ["_time", "_value", "event"])

first_votes = cell
  |> filter(fn: (r) => r._measurement == "vote" and r._field == "target" and r.event == "sent")
  |> keep(columns: ["_time", "_value"])
  |> group()
  |> sort(columns: ["_time"])
  |> unique(column: "_value")
  |> set(key: "event", value: "voted")

// One row for each block; of an event that every validator has, the last one's time stays.
blocks = union(tables: [events, first_votes])
  |> group()
  |> sort(columns: ["_time"])
  |> pivot(rowKey: ["_value"], columnKey: ["event"], valueColumn: "_time")

seconds = (from, to) => float(v: int(v: to) - int(v: from)) / 1000000000.0

T_bp = blocks
  |> filter(fn: (r) => exists r.proposed and exists r.verified)
  |> map(fn: (r) => ({_time: r.proposed, timing: "T_bp", _value: seconds(from: r.proposed, to: r.verified)}))

T_cf = blocks
  |> filter(fn: (r) => exists r.proposed and exists r.voted and exists r.justified)
  |> map(fn: (r) => ({_time: r.proposed, timing: "T_cf", _value: seconds(from: r.voted, to: r.justified)}))

final = blocks
  |> filter(fn: (r) => exists r.proposed and exists r.finalized)
  |> map(fn: (r) => ({_time: r.proposed, timing: "proposed to final", _value: seconds(from: r.proposed, to: r.finalized)}))

union(tables: [T_bp, T_cf, final])
  |> group(columns: ["timing"])
  |> aggregateWindow(
    every: v.windowPeriod,
    fn: (tables=<-, column) => tables |> quantile(q: 0.5, column: column, method: "exact_mean"),
    createEmpty: false,
  )
  |> keep(columns: ["_time", "_value", "timing"])
