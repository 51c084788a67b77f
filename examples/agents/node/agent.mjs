// Answer an arithmetic question with a calculator: a loop on the OpenAI SDK for Node.js.
import OpenAI from 'openai';

const SYSTEM = 'Answer with a number. Use the calculator for every operation.';
const MAX_TURNS = 4;
const operators = { '+': (a, b) => a + b, '-': (a, b) => a - b, '*': (a, b) => a * b };
const tools = [{
  type: 'function',
  function: {
    name: 'calculator',
    description: 'Compute a operator b.',
    parameters: {
      type: 'object',
      properties: {
        a: { type: 'integer' },
        operator: { type: 'string', enum: Object.keys(operators) },
        b: { type: 'integer' },
      },
      required: ['a', 'operator', 'b'],
    },
  },
}];

function runTool(call) {
  try {
    const { a, operator, b } = JSON.parse(call.function.arguments);
    return String(operators[operator](Number(a), Number(b)));
  } catch (error) {
    return `error: ${error.message}`;
  }
}

async function answer(question) {
  const client = new OpenAI();
  const model = process.env.OPENAI_MODEL ?? 'gpt-5.2';
  const messages = [{ role: 'system', content: SYSTEM }, { role: 'user', content: question }];
  let message;
  for (let turn = 0; turn < MAX_TURNS; turn += 1) {
    const reply = await client.chat.completions.create({ model, messages, tools });
    message = reply.choices[0].message;
    if (!message.tool_calls?.length) break;
    messages.push(message);
    for (const call of message.tool_calls) {
      messages.push({ role: 'tool', tool_call_id: call.id, content: runTool(call) });
    }
  }
  return message.content ?? '';
}

console.log(await answer(process.argv[2]));
