-- 031_refs_page.sql: the refs of a snapshot in name order, a page at a time, in one statement.

-- Read along the index from the last page's end to the limit, also while no statistics say that this is best: that is
-- what the settings are for, which belong to this function alone and leave nothing in a session.
-- A pattern of bytes may let more through than its glob; the caller looks again.
create function refs_page(of_repo uuid, at_snapshot int, after_name bytea, likes bytea[], at_most bigint)
returns table (name bytea, target bytea)
language sql stable
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
  select ref.name::bytea, stay.target::bytea
  from ref
  cross join lateral (
    select target, last_snapshot from ref_stay
    where ref_id = ref.id and first_snapshot <= at_snapshot
    order by first_snapshot desc
    limit 1
  ) stay
  where ref.repo_id = of_repo
    and substring(ref.name from 1 for 200) >= substring(after_name from 1 for 200) and ref.name > after_name
    and (stay.last_snapshot is null or stay.last_snapshot >= at_snapshot)
    and (likes is null or ref.name like any (likes))
  order by substring(ref.name from 1 for 200), ref.name
  limit at_most
$$;
