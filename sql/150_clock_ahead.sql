-- 150_clock_ahead.sql: what a clock that was ahead wrote is no proof that a repo is protected.

-- As in 120. Also where it is said to be protected as of a time that has not come: nobody knows since when it is not. The next
-- check that goes well puts that right (queries/protected.sql, which bears the same hour).
create or replace function is_outside_rpo(repo, at timestamptz) returns boolean language sql stable as $$
  select $1.archived_at is null and $1.paused_at is null and (
    $1.damaged_at is not null or unsaved_since($1) < $2 - repo_rpo($1) or unsaved_since($1) > $2 + interval '1 hour'
  )
$$;
