from(bucket: v.bucket)
  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
  |> filter(fn: (r) => r.run == v.run and r.cell == v.cell)
  |> filter(fn: (r) => r._measurement == "transaction" and r._field == "id" and r.validator != "client")
  |> filter(fn: (r) => r.event == "accepted" or r.event == "finalized")
  // Of all validators together, a quarter of the transactions: the id's first digit decides.
  |> filter(fn: (r) => r.validator == v.validator or (v.validator == "(all)" and r._value < "4"))
  |> keep(columns: ["_time", "_value", "event", "validator"])
  |> group(columns: ["validator"])
  |> sort(columns: ["_time"])
  |> pivot(rowKey: ["_value"], columnKey: ["event"], valueColumn: "_time")
  |> filter(fn: (r) => exists r.accepted and exists r.finalized)
  |> map(fn: (r) => ({
    _time: r.finalized,
    validator: r.validator,
    _value: float(v: int(v: r.finalized) - int(v: r.accepted)) / 1000000000.0,
  }))
  |> aggregateWindow(
    every: v.windowPeriod,
    fn: (tables=<-, column) => tables |> quantile(q: 0.5, column: column, method: "exact_mean"),
    createEmpty: false,
  )
  |> keep(columns: ["_time", "_value", "validator"])
