-- listening.sql($1 now): every channel that is confirmed and in use, with the teams that it hears of and what went there lately.
select
  channel.id, channel.team_id, channel.person_id, off, quiet_from, quiet_to, zone, channel.created_at, failing_since,
  case
    when channel.team_id is not null then array[channel.team_id]
    when channel.person_id is not null then array(
      select member.team_id from member where member.person_id = channel.person_id
    )
  end as teams,
  lately.calm_at, lately.urgent_at
from channel
cross join lateral (
  select
    max(first_at) filter (where not urgent) as calm_at,
    array_agg(first_at) filter (where urgent and first_at > $1::timestamptz - interval '1 hour') as urgent_at
  from sending join message on message.id = message_id
  where channel_id = channel.id and first_at > $1::timestamptz - interval '1 day'
) lately
where removed_at is null and stopped_at is null and confirmed_at is not null
order by channel.created_at, channel.id
