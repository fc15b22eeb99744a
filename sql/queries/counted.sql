-- counted.sql: everything that was ever counted, added up or not, as of one moment.
select what, kind, outcome, class, bucket, sum(number)::bigint as number, sum(microseconds)::double precision / 1000000 as seconds
from (
  select what, kind, outcome, class, bucket, number, microseconds from counted_total
  union all
  select what, kind, outcome, class, duration_bucket(seconds), 1, coalesce(round(seconds::numeric * 1000000), 0)
  from counted
) as each
group by what, kind, outcome, class, bucket
order by what, kind, outcome, class, bucket
