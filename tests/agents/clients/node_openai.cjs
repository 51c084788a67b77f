// An agent on the OpenAI SDK for Node.js: NODE_PATH=.../node_modules node node_openai.cjs plain|streamed TASK [FOLLOW-UP ...]
const OpenAI = require('openai');

const tools = [{
  type: 'function',
  function: {
    name: 'calculator',
    description: 'Calculate with two whole numbers.',
    parameters: { type: 'object', properties: { expression: { type: 'string' } }, required: ['expression'] },
  },
}];
const operators = { '+': (a, b) => a + b, '-': (a, b) => a - b, '*': (a, b) => a * b };

function calculator({ expression }) {
  const [, a, operator, b] = expression.match(/^\s*(\d+)\s*([-+*])\s*(\d+)\s*$/);
  return `${expression} = ${operators[operator](Number(a), Number(b))}`;
}

const client = new OpenAI();
const [mode, ...tasks] = process.argv.slice(2);
const messages = [{ role: 'system', content: 'You are a careful calculator.' }];

async function say() {
  const request = { model: process.env.OPENAI_MODEL ?? 'gpt-5.2', messages, tools };
  if (mode === 'streamed') {
    return client.chat.completions.stream(request).finalMessage();
  }
  return (await client.chat.completions.create(request)).choices[0].message;
}

async function answer(task) {
  messages.push({ role: 'user', content: task });
  let message = await say();
  messages.push(message);
  while (message.tool_calls?.length) {
    for (const call of message.tool_calls) {
      const content = calculator(JSON.parse(call.function.arguments));
      messages.push({ role: 'tool', tool_call_id: call.id, content });
    }
    message = await say();
    messages.push(message);
  }
  console.log(message.content);
}

(async () => {
  for (const task of tasks) {
    await answer(task);
  }
})();
