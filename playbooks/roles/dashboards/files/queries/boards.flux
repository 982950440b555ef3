from(bucket: v.bucket)
  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
  |> filter(fn: (r) => r.run == v.run and r.cell == v.cell)
  |> filter(fn: (r) => r._measurement == "board")
  |> filter(fn: (r) =>
    r._field == "cpu_percent" or r._field == "load1" or r._field == "temperature_c"
      or r._field == "frequency_hz" or r._field == "throttled")
  |> last()
  |> filter(fn: (r) => v.validator == "(all)" or r.validator == v.validator)
  |> toFloat()
  |> group()
  |> pivot(rowKey: ["host"], columnKey: ["_field"], valueColumn: "_value")
  |> sort(columns: ["host"])
