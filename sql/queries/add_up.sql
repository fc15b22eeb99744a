-- add_up.sql: add up what was counted since the last time. Safe to run twice, and beside another one: a row is added by
-- who deletes it. In order, so that two never wait for each other.
with taken as (
  delete from counted returning what, kind, outcome, class, seconds
)
insert into counted_total as total (what, kind, outcome, class, bucket, number, microseconds)
select what, kind, outcome, class, duration_bucket(seconds), count(*), coalesce(sum(round(seconds::numeric * 1000000)), 0)
from taken group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5
on conflict (what, kind, outcome, class, bucket) do update set
  number = total.number + excluded.number, microseconds = total.microseconds + excluded.microseconds
