points = from(bucket: v.bucket)
  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
  |> filter(fn: (r) => r._measurement == "process" and r.run == v.run and r.cell == v.cell)
  |> keep(columns: ["validator"])
  |> group()

union(tables: [
  points |> set(key: "validator", value: "(all)") |> distinct(column: "validator"),
  points |> distinct(column: "validator"),
])
  |> group()
  |> sort()
