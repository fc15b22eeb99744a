-- end_mirror_push.sql($1 target, $2 attempt, $3 snapshot, $4 now, $5 next, $6 class of the failure or null, $7 failure, $8 counts, $9 refs, $10 notes):
-- what a push came to, if it still is that attempt's. A snapshot that came meanwhile is due at once; after a failure its time comes.
update mirror_target set
  pushing_until = null,
  due_at = case when $6::text is null and newest > $3::int then $4::timestamptz else $5::timestamptz end,
  pushed = case when $6 is null then greatest(pushed, $3::int) else pushed end,
  newest = greatest(newest, case when $6 is null then $3::int else 0 end),
  pushed_at = case when $6 is null then $4::timestamptz else pushed_at end,
  failures = case when $6 is null then 0 else failures + 1 end,
  failure_class = $6::text, failure = $7::text,
  failing_since = case when $6 is not null then coalesce(failing_since, $4::timestamptz) end,
  counts = case when $6 is null then $8::jsonb else counts end,
  refs = case when $6 is null then $9::jsonb else refs end,
  notes = case when $6 is null then $10::jsonb else notes end
where id = $1 and attempt = $2
