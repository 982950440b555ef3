from(bucket: v.bucket)
  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
  |> filter(fn: (r) => r.run == v.run and r.cell == v.cell)
  |> filter(fn: (r) => r._measurement == "board")
  |> filter(fn: (r) => r._field == "memory_total_bytes" or r._field == "memory_available_bytes")
  |> aggregateWindow(every: v.windowPeriod, fn: mean, createEmpty: false)
  |> filter(fn: (r) => v.validator == "(all)" or r.validator == v.validator)
  |> group(columns: ["host"])
  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
  |> filter(fn: (r) => exists r.memory_total_bytes and exists r.memory_available_bytes)
  |> map(fn: (r) => ({
    _time: r._time,
    host: r.host,
    _value: 100.0 * (1.0 - r.memory_available_bytes / r.memory_total_bytes),
  }))
