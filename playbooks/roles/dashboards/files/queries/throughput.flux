// Blocks come seconds apart: shorter windows would show each as a spike.
every = duration(v: if int(v: v.windowPeriod) > 5000000000 then int(v: v.windowPeriod) else 5000000000)

from(bucket: v.bucket)
  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
  |> filter(fn: (r) => r.run == v.run and r.cell == v.cell)
  |> filter(fn: (r) => r._measurement == "block" and r._field == "transactions" and r.event == "finalized")
  |> aggregateWindow(every: every, fn: sum, createEmpty: true)
  |> filter(fn: (r) => v.validator == "(all)" or r.validator == v.validator)
  |> fill(value: 0)
  |> map(fn: (r) => ({_time: r._time, validator: r.validator, _value: float(v: r._value) * 1000000000.0 / float(v: int(v: every))}))
  |> group(columns: ["validator"])
