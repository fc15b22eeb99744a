-- hooks_due.sql($1, $2 moments, $3 limit per connection, $4 moment): the hooks to look at: unchecked since $1 (since $4 where the
-- forge refused them), or silent since before $2 while their repo moved.
select * from (
  select hook.*, row_number() over (partition by connection.id order by hook.checked_at nulls first, hook.id) as turn
  from hook
  join repo on repo.id = hook.repo_id
  join connection on connection.id = repo.connection_id
  where connection.state = 'works' and repo.archived_at is null and repo.paused_at is null
    and (
      hook.checked_at is null
      or hook.checked_at < case when hook.state = 'refused' then $4::timestamptz else $1::timestamptz end
        + make_interval(secs => hashtext(hook.id) & 1023)  -- up to 17 minutes sooner, each at its own time
      or (
        repo.changed_at > coalesce(hook.delivered_at, hook.created_at) + interval '10 minutes'
        and hook.checked_at < least(repo.changed_at, $2::timestamptz)
      )
    )
) due
where turn <= $3
order by checked_at nulls first, id
