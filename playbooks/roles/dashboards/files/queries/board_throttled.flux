from(bucket: v.bucket)
  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
  |> filter(fn: (r) => r.run == v.run and r.cell == v.cell)
  |> filter(fn: (r) => r._measurement == "board")
  |> filter(fn: (r) =>
    r._field == "under_voltage_now" or r._field == "frequency_capped_now"
      or r._field == "throttled_now" or r._field == "temperature_limit_now")
  |> filter(fn: (r) => v.validator == "(all)" or r.validator == v.validator)
  |> toInt()
  |> group(columns: ["host", "_field"])
  |> aggregateWindow(every: v.windowPeriod, fn: max, createEmpty: false)
  |> keep(columns: ["_time", "_value", "host", "_field"])
